"""What keeps a plan from being run in its folder, or results from being reported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json, sha256_of
from rrr_lightning.glue.plan import NETWORK, Plan, Run, told_otherwise
from rrr_lightning.jobs.process import MARKER, still_running


def check_start(plan: Plan, runs: Iterable[Run]) -> None:
    """Refuses a plan by which not all runs of a folder would start from the same network.

    Args:
        plan: What will be run.
        runs: All runs, as the record of the folder has them.

    Raises:
        InputError: A finished run of MNLI has no network; or it is gone, and what started from it
            is there.
    """
    left = {run.folder for run in plan.left}
    for run in runs:
        start = Path(run.settings["checkpoint"]).parent
        if start in left and _result(run).get("start_sha256") is not None:
            raise InputError(
                f"{run.name} started from a run of MNLI that is gone",
                key="--out",
                found=str(run.folder),
                accepted="the same call once the folders of all such runs are removed",
            )
    folders = {run.name: run.folder for run in plan.runs}
    for source in {folders[name] for job in plan.jobs if not job.finished for name in job.needs}:
        if (source / MARKER).exists() and not (source / NETWORK).exists():
            raise InputError(
                "a finished run of MNLI has kept no network that tasks could start from",
                key="--out",
                found=str(source),
                accepted="the same call once it is removed, and the folders of the runs that "
                "started from it",
            )


def check_running(plan: Plan) -> None:
    """Refuses other settings for a job that still runs by those of an earlier call.

    Jobs on a cluster outlive a runner that was killed.

    Raises:
        InputError: There is one.
    """
    for run in plan.left:
        names = told_otherwise(run)
        note = still_running(run.folder) if names else None
        if note is not None:
            raise InputError(
                f"{run.name} is still run by the settings of an earlier call, with another "
                + " and ".join(names),
                key="--out",
                found=f"process {note.get('group', note.get('pid'))} on {note.get('host')}",
                accepted="the same call after that one has ended, or the earlier settings",
            )


def check_finished(runs: Iterable[Run], fingerprint: str, key: str) -> None:
    """Refuses a finished run that was trained by other settings than were planned.

    A run that started from MNLI is trusted if the network is gone.

    Args:
        runs: All runs, as the record of their folder has them.
        fingerprint: What tells their checkpoint from others.
        key: The option that names the folder.

    Raises:
        InputError: There is one.
    """
    starts: dict[Path, str] = {}
    for run in runs:
        left = _result(run)
        if not left:
            continue
        start, started = Path(run.settings["checkpoint"]), left.get("start_sha256")
        if started is not None and start.exists():
            if start not in starts:
                starts[start] = sha256_of(start)
            if started != starts[start]:
                raise InputError(
                    f"{run.name} started from another run of MNLI than the one that is there now",
                    key=key,
                    found=str(start),
                    accepted=f"the same call once {run.folder} is removed",
                )
        before = {"fingerprint": left["fingerprint"], **left["settings"]}
        now = {**run.settings, "fingerprint": fingerprint}
        other = {name: value for name, value in before.items() if now.get(name, value) != value}
        if other:
            planned = {name: now[name] for name in other}
            gone = f"{run.folder} is removed"
            if run.is_start:
                gone += ", and the folders of the runs that started from it"
            raise InputError(
                f"{run.name} was trained by other settings than those of its folder",
                key=key,
                found=other,
                accepted=f"{planned}, or the same call once {gone}",
            )


def _result(run: Run) -> dict[str, Any]:
    """What a run has left; nothing if it has not finished."""
    marker = run.folder / MARKER
    found: dict[str, Any] = read_json(marker)["result"] if marker.exists() else {}
    return found
