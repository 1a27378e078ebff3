"""What runs in a process of its own for every job: its command, in a folder that no other touches.

The command's output goes to `log.txt`. A job has finished when `done.json` is there, which appears
at once and whole, and holds what the command left in `result.json`. A local job ends soon after
its runner does, also when that was killed: the runner holds a lock that this process watches.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from rrr_lightning.errors import InputError
from rrr_lightning.files import atomic_file, read_json
from rrr_lightning.jobs.locks import POLL_SECONDS, Lock, holder
from rrr_lightning.jobs.places import Places, executor_of

MARKER = "done.json"
RESULT = "result.json"
LOG = "log.txt"
LOCK = ".lock"
PROMPT = "$ "
GRACE_SECONDS = 15.0
ABANDONED = -1


def run_command(
    folder: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    runner: tuple[str, str] | None,
) -> int:
    """Runs a command in its folder unless it has finished there."""
    home = Path(folder)
    lock = Lock(home / LOCK)
    if not _wait_for(lock, runner):
        return ABANDONED
    try:
        if (home / MARKER).exists():
            return 0
        (home / RESULT).unlink(missing_ok=True)
        start = time.monotonic()
        with (home / LOG).open("a") as log:
            log.write(f"{PROMPT}{shlex.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PYTHONUNBUFFERED": "1", **os.environ, **environment},
                start_new_session=True,
                pass_fds=[lock.fileno()],
            )
        lock.write({**_me(runner), "group": process.pid})
        code = _wait(process, runner)
        if code == 0:
            write_json(home / MARKER, _record(home, command, time.monotonic() - start))
        return code
    finally:
        lock.release()


def still_running(folder: Path) -> dict[str, str | int] | None:
    """Returns the note of the process that runs a job's command, None where none does.

    The caller holds the folder of all jobs. So a local job belongs to an earlier runner and ends
    soon: it is waited for.
    """
    end = time.monotonic() + GRACE_SECONDS + 10 * POLL_SECONDS
    while (note := holder(folder / LOCK)) is not None:
        if note.get("runner") == "" or time.monotonic() > end:
            break
        time.sleep(POLL_SECONDS)
    return note


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Writes a JSON file whole or not at all: in one line, or indented where people read it."""
    separators = (",", ":") if indent is None else None
    with atomic_file(path) as file:
        file.write(f"{json.dumps(content, indent=indent, separators=separators)}\n".encode())


def how_it_ended(code: int | None, log: Path) -> str:
    """Returns why a command failed, in a line."""
    line = last_line(log)
    if code is None:
        return f"its process was killed; {line}"
    if code < ABANDONED:
        number = signal.Signals(-code)
        hint = " (out of memory?)" if number == signal.SIGKILL else ""
        return f"killed by {number.name}{hint}; {line}"
    return line


def last_line(log: Path) -> str:
    """Returns the last line of a log that is not empty, which for a crash says what it was."""
    if not log.exists():
        return "the job never started"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "it printed nothing" if last.startswith(PROMPT) else last


def _me(runner: tuple[str, str] | None) -> dict[str, str | int]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "runner": runner[1] if runner else "",
    }


def _is_abandoned(runner: tuple[str, str] | None) -> bool:
    """Whether the runner of this job is gone, or another one has taken its place."""
    return runner is not None and (holder(Path(runner[0])) or {}).get("name") != runner[1]


def _wait_for(lock: Lock, runner: tuple[str, str] | None) -> bool:
    """Waits until the folder is free; False if the runner ends before.

    A command whose own process and runner were both killed may go on here. When it has not ended
    after a while, it is stopped.
    """
    start = time.monotonic()
    while not lock.take(_me(runner)):
        if _is_abandoned(runner):
            return False
        note = holder(lock.path) or {}
        left_over = note.get("host") == socket.gethostname() and note.get("runner")
        if left_over and "group" in note and time.monotonic() - start > GRACE_SECONDS:
            _signal_group(int(note["group"]), signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    return True


def _wait(process: subprocess.Popen[bytes], runner: tuple[str, str] | None) -> int:
    """Waits for the command, and stops it when the runner is gone."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(POLL_SECONDS)
        if _is_abandoned(runner):
            break
    _signal_group(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    return ABANDONED


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _record(home: Path, command: Sequence[str], seconds: float) -> dict[str, Any]:
    result = home / RESULT
    return {
        "command": list(command),
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "result": read_json(result) if result.exists() else None,
    }


# ----------------------------------------------------------------------
# Starting jobs through `submitit`: in processes on this machine, or in the queue of a cluster.


NO_LIMIT_MINUTES = 60 * 24 * 365


class Submission:
    """One attempt at a job.

    Args:
        job: The job of `submitit`.
        marker: File that appears when the job's command has ended well.
        local: Whether it runs on this machine.
    """

    def __init__(self, job: submitit.Job[int], marker: Path, local: bool) -> None:
        self._job = job
        self._marker = marker
        self._local = local
        self._cancelled = False

    def ended(self) -> bool:
        """Whether the attempt is over; on a cluster also when an earlier one has finished."""
        if not self._local and self._marker.exists():
            self.cancel()
            return True
        return self._job.done()

    def exit_code(self) -> int | None:
        """Returns the command's exit code, None if its process was killed."""
        if self._local and not self._job.paths.result_pickle.exists():
            return None
        try:
            return self._job.result()
        except UncompletedJobError:
            return None

    def cancel(self) -> None:
        """Takes the job from the cluster; local ones see for themselves that the runner is gone."""
        if not self._local and not self._cancelled and not self._job.done():
            self._cancelled = True
            self._job.cancel(check=False)


class Submitter:
    """Submits jobs.

    Args:
        places: Where they run.
        folder: For the files of `submitit`.
        runner: The lock that this runner holds, and its name.
    """

    def __init__(self, places: Places, folder: Path, runner: tuple[str, str]) -> None:
        self._places = places
        self._local = places.cluster == "local"
        self._runner = runner if self._local else None
        self._submissions: list[Submission] = []
        self._executor = executor_of(places, folder / "%j")
        if self._local:
            self._executor.update_parameters(timeout_min=NO_LIMIT_MINUTES)

    def submit(self, name: str, folder: Path, command: Sequence[str], place: int) -> Submission:
        """Starts a command in a place."""
        self._executor.update_parameters(name=name)
        environment = dict(self._places.environments[place])
        with _children_ignore_interrupts():
            try:
                job = self._executor.submit(
                    run_command, str(folder), list(command), environment, self._runner
                )
            except (FailedSubmissionError, UncompletedJobError) as error:
                raise InputError(str(error), key="--slurm") from error
        submission = Submission(job, folder / MARKER, self._local)
        self._submissions.append(submission)
        return submission

    def close(self) -> None:
        """Waits until no local job runs any more, and takes the others from the cluster."""
        end = time.monotonic() + 2 * GRACE_SECONDS
        for submission in self._submissions:
            submission.cancel()
            while self._local and not submission.ended() and time.monotonic() < end:
                time.sleep(POLL_SECONDS / 2)


@contextlib.contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Lets Ctrl-C reach the runner alone, which then stops its jobs in good order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
