"""Jobs of a few milliseconds: shell commands in folders of their own."""

from __future__ import annotations

import io
from pathlib import Path

from rrr_lightning.jobs import Held, Job, Outcome, Places, run_jobs

ONE = Places(({},))
TWO = Places(({}, {}))
JOURNAL = 'echo "$0" >> ../journal'


def job(home: Path, name: str, script: str = ":", **settings: object) -> Job:
    """A job that writes its name into `journal` when it starts, then runs a script."""
    command = ("sh", "-c", f"cd {home / name} && {JOURNAL} && {script}", name)
    return Job(name, command, home / name, **settings)  # type: ignore[arg-type]


def journal(home: Path) -> list[str]:
    """Names of the jobs in the order in which they started."""
    return (home / "journal").read_text().split()


def run(
    home: Path, *jobs: Job, places: Places = TWO, held: Held | None = None
) -> tuple[Outcome, list[str]]:
    """Runs the jobs; returns the outcome and what was printed."""
    stream = io.StringIO()
    outcome = run_jobs(jobs, home, places, stream, held)
    return outcome, stream.getvalue().splitlines()
