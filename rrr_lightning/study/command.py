"""`rrr study`: does distillation pay? Runs a study file and prints speed-ups with intervals.

    rrr study plan FILE --out FOLDER      its runs, their order and predicted device-hours
    rrr study run FILE --out FOLDER       runs what has not finished, then reports
    rrr study report FILE --out FOLDER    reports on what has finished
    rrr study advise FILE --out FOLDER    what a distilled step would cost on this machine

Run again, `run` resumes where it stopped; of finished work it says `0 jobs run`.
"""

from __future__ import annotations

import argparse
import sys

from rrr_lightning.jobs import find_places
from rrr_lightning.jobs.places import slurm_parameters
from rrr_lightning.study.advise import advise, list_hours, list_runs
from rrr_lightning.study.run import open_study, report, run_study, timed


def act(args: argparse.Namespace) -> bool:
    """Runs `rrr study ACTION`; returns whether every run has finished."""
    slurm = slurm_parameters(args.slurm)
    opened = open_study(args.file, args.out, args.data, args.quality_data)
    if args.action == "run":
        return run_study(opened, args.devices, slurm).complete
    if args.action == "report":
        report(opened)
        return True
    if args.action == "plan":
        sys.stdout.write(list_runs(opened.runs, opened.results))
        if args.untimed:
            return True
    timings = timed(opened, find_places(args.devices, slurm))
    if args.action == "plan":
        evaluated = opened.study.quality.command is not None
        sys.stdout.write(list_hours(opened.runs, opened.results, timings, evaluated))
    else:
        sys.stdout.write(advise(opened.study, opened.runs, timings))
    return True
