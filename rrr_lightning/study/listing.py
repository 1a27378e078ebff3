"""What `rrr study plan` prints: the runs in their order, and the device-hours they will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rrr_lightning.jobs.display import duration
from rrr_lightning.study.pilot import Timing
from rrr_lightning.study.plan import Run
from rrr_lightning.study.records import Record


def list_runs(runs: Sequence[Run], records: Mapping[str, Record]) -> str:
    """Returns one line per run, in an order in which they can run."""
    width = max(len(run.name) for run in runs)
    lines = [f"{'run':<{width}}  {'steps':>9}  {'seed':>6}  needs"]
    for run in runs:
        state = "has finished" if run.name in records else ", ".join(run.teachers)
        lines.append(f"{run.name:<{width}}  {run.steps:>9,}  {run.seed:>6}  {state}".rstrip())
    left = sum(run.name not in records for run in runs)
    lines.append(f"{len(runs)} runs, {left} of them left")
    return "\n".join(lines) + "\n"


def list_hours(
    runs: Sequence[Run],
    records: Mapping[str, Record],
    timings: Mapping[str, Timing],
    judged: bool = False,
) -> str:
    """Returns the predicted device-hours of the runs that are left, by arm and teacher.

    Args:
        runs: All runs.
        records: Those that have finished.
        timings: What each kind of run takes.
        judged: Whether a command judges the students, which was not timed.
    """
    lines = ["", f"{'runs of':<20}  {'runs':>5}  {'ms per step':>22}  {'device-hours':>12}"]
    total = 0.0
    for kind, timing in timings.items():
        left = [run for run in runs if run.kind == kind and run.name not in records]
        hours = sum(timing.seconds(run) * timing.devices for run in left) / 3600
        total += hours
        step = " / ".join(
            f"{1000 * seconds:.1f} {what}"
            for what, seconds in (("plain", timing.plain), ("distilled", timing.distilled))
            if seconds is not None
        )
        lines.append(f"{kind:<20}  {len(left):>5}  {step:>22}  {hours:>12.3f}")
    devices = ", ".join(sorted({timing.device for timing in timings.values()}))
    lines.append(
        f"{total:.3f} device-hours ({duration(3600 * total)}) on {devices}, by a few timed steps"
    )
    if judged:
        lines.append("not among these hours: the command that judges each student")
    return "\n".join(lines) + "\n"
