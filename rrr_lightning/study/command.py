"""`rrr study`: does distillation pay? Runs a study file and prints speed-ups with intervals.

    rrr study plan FILE --out FOLDER      its runs, their order and predicted device-hours
    rrr study run FILE --out FOLDER       runs what has not finished, then reports
    rrr study report FILE --out FOLDER    reports on what has finished
    rrr study advise FILE --out FOLDER    what a distilled step would cost on this machine

Run again, `run` goes on where it stopped; of finished work it says `0 jobs run`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rrr_lightning.errors import InputError
from rrr_lightning.jobs import find_places
from rrr_lightning.jobs.places import slurm_parameters
from rrr_lightning.study.advise import advise
from rrr_lightning.study.listing import list_hours, list_runs
from rrr_lightning.study.run import open_study, report, run_study, timed

ACTIONS = {
    "plan": "print the runs, their order and the predicted device-hours",
    "run": "run what has not finished, then report",
    "report": "report on what has finished",
    "advise": "time a few steps here, and say what distillation would cost and has to save",
}


def _fail(line: str) -> NoReturn:
    # Imports Lightning, which a call with nothing left to do can spare.
    from rrr_lightning._parsing import fail

    fail(line)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        _fail(message)


def main(arguments: Sequence[str]) -> None:
    """Runs `rrr study`."""
    given = _parser().parse_args(arguments)
    try:
        complete = _act(given)
    except InputError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command goes on from here\n")
        sys.exit(130)
    if not complete:
        sys.exit(1)


def _act(given: argparse.Namespace) -> bool:
    """Does what was asked for; returns whether nothing is missing."""
    slurm = slurm_parameters(given.slurm)
    opened = open_study(given.file, given.out, given.data, given.quality_data)
    if given.action == "run":
        return run_study(opened, given.devices, slurm).complete
    if given.action == "report":
        report(opened)
        return True
    if given.action == "plan":
        sys.stdout.write(list_runs(opened.runs, opened.records))
        if given.untimed:
            return True
    timings = timed(opened, find_places(given.devices, slurm))
    if given.action == "plan":
        judged = opened.study.quality.command is not None
        sys.stdout.write(list_hours(opened.runs, opened.records, timings, judged))
    else:
        sys.stdout.write(advise(opened.study, opened.runs, timings))
    return True


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "rrr study",
        description="Compares ways to train by what quality they reach at what cost.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for action, summary in ACTIONS.items():
        part = actions.add_parser(action, help=summary, description=summary, allow_abbrev=False)
        add = part.add_argument
        add("file", metavar="FILE", help="a study file, or a shipped one: study/quickstart.yaml")
        add("--out", required=True, help="the output folder; finished runs in it are kept")
        add("--data", help="where the data are, over data.source of the configurations")
        add("--quality-data", help="what the command that judges runs judges on")
        add("--devices", default="auto", help="auto, cpu, cpu:4, gpu, gpu:0,2, slurm or slurm:16")
        add("--slurm", help="parameters of the cluster, such as gpus_per_node=1")
        if action == "plan":
            add("--untimed", action="store_true", help="list the runs without timing any step")
    return parser
