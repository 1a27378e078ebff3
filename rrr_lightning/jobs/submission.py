"""Starting jobs through `submitit`: in processes on this machine, or in the queue of a cluster."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from rrr_lightning.errors import InputError
from rrr_lightning.jobs.locks import POLL_SECONDS
from rrr_lightning.jobs.places import Places, executor_of
from rrr_lightning.jobs.process import GRACE_SECONDS, MARKER, run_command

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
