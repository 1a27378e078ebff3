"""The runner: starts what is ready, longest first, and keeps going until nothing more can run.

Every job is a process started through `submitit`, here or on a cluster. Nothing is kept in memory
that matters: after Ctrl-C or SIGKILL the same call goes on from what the folders hold.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.jobs.locks import POLL_SECONDS, Held, hold
from rrr_lightning.jobs.places import Places, find_places
from rrr_lightning.jobs.process import LOG, MARKER, Submission, Submitter, how_it_ended

# ----------------------------------------------------------------------
# One progress display over all jobs: a line for each event, and on a terminal a line that moves.


WIDTH = 20
REFRESH_SECONDS = 1.0
FINISHED = "finished"


class Display:
    """Prints how far the jobs are.

    Args:
        expected: Expected seconds of every job of this run, by name.
        known: Jobs that had finished before.
        places: Jobs that run at once.
        stream: Where to; the standard output by default.
    """

    def __init__(
        self, expected: dict[str, float], known: int, places: int, stream: TextIO | None = None
    ) -> None:
        self.expected = expected
        self.known = known
        self.places = places
        self.stream = sys.stdout if stream is None else stream
        self.moving = self.stream.isatty()
        self._running: dict[str, float] = {}
        self._ended: set[str] = set()
        self._finished: dict[str, float] = {}
        self._drawn = 0.0

    def started(self, name: str) -> None:
        """A job starts, or starts again."""
        self._running[name] = time.monotonic()
        if self.moving:
            self.tick(force=True)
        else:
            self.say(f"{self._count()} {name} started")

    def ended(self, name: str, how: str) -> None:
        """A job has ended; `how` says in what way: `finished` or otherwise."""
        seconds = time.monotonic() - self._running.pop(name)
        self._ended.add(name)
        if how == FINISHED:
            self._finished[name] = seconds
        self.say(f"{self._count()} {name} {how} in {duration(seconds)}{self._left()}")

    def again(self, name: str, why: str) -> None:
        """A job has crashed and will be tried once more."""
        del self._running[name]
        self.say(f"{name} crashed and will be tried once more: {why}")

    def skipped(self, name: str, why: str) -> None:
        """A job will not run."""
        self._ended.add(name)
        self.say(f"{self._count()} {name} {why}")

    def say(self, line: str) -> None:
        """Prints a line."""
        self.stream.write(("\r\x1b[K" if self.moving else "") + line + "\n")
        self.stream.flush()
        self.tick(force=True)

    def tick(self, force: bool = False) -> None:
        """Draws the moving line again, on a terminal, once a second."""
        if not self.moving or not (force or time.monotonic() - self._drawn > REFRESH_SECONDS):
            return
        self._drawn = time.monotonic()
        done = len(self._ended) + self.known
        full = WIDTH * done // max(1, len(self.expected) + self.known)
        bar = "█" * full + "░" * (WIDTH - full)
        running = " " + ", ".join(self._running) if self._running else ""
        text = f"{bar} {self._count()}{running[:40]}{self._left()}"
        self.stream.write(f"\r\x1b[K{text}")
        self.stream.flush()

    def close(self) -> None:
        """Removes the moving line."""
        if self.moving:
            self.stream.write("\r\x1b[K")
            self.stream.flush()

    def seconds_left(self) -> float:
        """Returns the expected seconds until the last job ends."""
        hoped = sum(self.expected[name] for name in self._finished)
        factor = sum(self._finished.values()) / hoped if hoped else 1.0
        now = time.monotonic()
        left = {
            name: max(0.0, factor * seconds - (now - self._running.get(name, now)))
            for name, seconds in self.expected.items()
            if name not in self._ended
        }
        return max(sum(left.values()) / self.places, max(left.values(), default=0.0))

    def _count(self) -> str:
        return f"[{len(self._ended) + self.known}/{len(self.expected) + self.known}]"

    def _left(self) -> str:
        if len(self._ended) == len(self.expected):
            return ""
        return f"; about {duration(self.seconds_left())} left"


def duration(seconds: float) -> str:
    """Returns seconds in words.

    >>> duration(4.2), duration(200), duration(9000)
    ('4 s', '3 min 20 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


ATTEMPTS = 2
REFUSALS = 3  # of one job by the cluster, after which it counts as failed
PAUSE_SECONDS = 60.0  # after a refused one, where no job runs whose end could be waited for
WRONG_INPUT = 2  # exit code for what a second attempt would not mend
SCRATCH = ".submitted"


@dataclass(frozen=True)
class Job:
    """A command with a folder.

    Attributes:
        name: Unique among the jobs of a run.
        command: Program and arguments; it may leave its result in `result.json` in the folder.
        folder: The job's own folder, where `log.txt` and `done.json` are kept.
        seconds: Expected seconds.
        needs: Names of the jobs that must have finished before.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    seconds: float = 60.0
    needs: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether the job has finished, now or in an earlier run."""
        return (self.folder / MARKER).exists()

    def record(self) -> dict[str, Any]:
        """Returns the marker of a finished job: `result`, `seconds`, `host`, `command`."""
        record: dict[str, Any] = read_json(self.folder / MARKER)
        return record


@dataclass(frozen=True)
class Failure:
    """How a job failed.

    Attributes:
        code: Exit code of its command; None if its process was killed, or never started.
        log: File with the command's output.
        line: Why: by `how_it_ended`, or what the cluster said when it did not take the job.
    """

    code: int | None
    log: Path
    line: str


@dataclass
class Outcome:
    """What one call of `run_jobs` did.

    Attributes:
        ran: Number of jobs that were started and have ended, well or not.
        failed: Jobs that failed, by name.
        skipped: Jobs that were not run, by name, with the reason.
    """

    ran: int = 0
    failed: dict[str, Failure] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every job has finished."""
        return not (self.failed or self.skipped)


def run_jobs(
    jobs: Sequence[Job],
    folder: str | Path,
    places: Places | None = None,
    stream: TextIO | None = None,
    held: Held | None = None,
) -> Outcome:
    """Runs the jobs that have not finished yet, and prints `N jobs run` in the end.

    A crashed job is tried once more, then reported, and takes along only those that need it. One
    that the cluster does not take is offered again, three times in all.
    """
    todo = {job.name: job for job in jobs if not job.finished}
    places = (places or find_places()) if todo else Places(({},))
    expected = {name: job.seconds for name, job in todo.items()}
    display = Display(expected, len(jobs) - len(todo), len(places.environments), stream)
    outcome = Outcome()
    if todo:
        home = Path(folder).absolute()
        own = hold(home) if held is None else contextlib.nullcontext(held)
        with own as runner, _submitter(runner, home, places) as submitter:
            try:
                _Run(todo, submitter, len(places.environments), display, outcome).go()
            finally:
                display.close()
    for job, failure in outcome.failed.items():
        log = f" (see {failure.log})" if failure.log.exists() else ""
        display.say(f"{job} failed: {failure.line}{log}")
    display.say(f"{outcome.ran} jobs run")
    return outcome


class _Run:
    """The state of one call."""

    def __init__(
        self,
        todo: dict[str, Job],
        submitter: Submitter,
        places: int,
        display: Display,
        outcome: Outcome,
    ) -> None:
        self.weights = _weights(todo)
        self.waiting = dict(todo)
        self.unfinished = set(todo)
        self.running: dict[int, tuple[Job, Submission]] = {}
        self.places = places
        self.attempts = dict.fromkeys(todo, 0)
        self.refusals = dict.fromkeys(todo, 0)
        self.pause_end: float | None = None
        self.submitter = submitter
        self.display = display
        self.outcome = outcome

    def go(self) -> None:
        """Runs until every job has finished, failed or been skipped."""
        while self.waiting or self.running:
            self._skip_hopeless()
            self._fill_places()
            for place, (job, submission) in list(self.running.items()):
                if submission.ended():
                    del self.running[place]
                    self._settle(job, submission)
            self.display.tick()
            if self.running or self._pauses():
                time.sleep(POLL_SECONDS / 2)

    def _fill_places(self) -> None:
        """Starts the ready jobs that matter most, as long as there are free places."""
        ready = [job for job in self.waiting.values() if self.unfinished.isdisjoint(job.needs)]
        ready.sort(key=lambda job: -self.weights[job.name])
        free = [place for place in range(self.places) if place not in self.running]
        for place, job in zip(free, ready, strict=False):
            if self._pauses():
                return
            self._submit(job, place)

    def _submit(self, job: Job, place: int) -> None:
        """Starts a job, unless the cluster does not take it."""
        try:
            submission = self.submitter.submit(job.name, job.folder, job.command, place)
        except InputError as error:
            if not any(self.attempts.values()):
                raise
            self._refused(job, str(error))
            return
        del self.waiting[job.name]
        self.pause_end = None
        self.attempts[job.name] += 1
        self.running[place] = (job, submission)
        self.display.started(job.name)

    def _refused(self, job: Job, line: str) -> None:
        """Lets a job that the cluster has not taken wait, or gives it up."""
        self.pause_end = time.monotonic() + PAUSE_SECONDS
        self.refusals[job.name] += 1
        if self.refusals[job.name] < REFUSALS:
            self.display.say(f"{job.name} was not taken and will be tried once more: {line}")
            return
        del self.waiting[job.name]
        self.outcome.failed[job.name] = Failure(None, job.folder / LOG, line)
        self.display.skipped(job.name, "failed: it was not taken")

    def _pauses(self) -> bool:
        """Whether a job was refused, and none has ended since or the pause is not over."""
        if self.pause_end is None:
            return False
        return bool(self.running) or time.monotonic() < self.pause_end

    def _settle(self, job: Job, submission: Submission) -> None:
        """Notes how a job has ended, and gives a crashed one another try."""
        self.pause_end = None
        if job.finished:
            self.unfinished.remove(job.name)
            self.outcome.ran += 1
            self.display.ended(job.name, FINISHED)
            return
        log = job.folder / LOG
        code = submission.exit_code()
        line = how_it_ended(code, log)
        if self.attempts[job.name] < ATTEMPTS and code != WRONG_INPUT:
            self.waiting[job.name] = job
            self.display.again(job.name, line)
            return
        self.outcome.ran += 1
        self.outcome.failed[job.name] = Failure(code, log, line)
        self.display.ended(job.name, "failed")

    def _skip_hopeless(self) -> None:
        """Skips the jobs that need one which failed or was itself skipped."""
        lost = {*self.outcome.failed, *self.outcome.skipped}
        for job in list(self.waiting.values()):
            missing = [name for name in job.needs if name in lost]
            if missing:
                del self.waiting[job.name]
                lost.add(job.name)
                self.outcome.skipped[job.name] = f"not run: needs {', '.join(missing)}"
                self.display.skipped(job.name, self.outcome.skipped[job.name])


@contextlib.contextmanager
def _submitter(held: Held, home: Path, places: Places) -> Iterator[Submitter]:
    """Starts jobs; they end with this process, whatever happens."""
    scratch = home / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        # A folder of its own: `submitit` names its files by process id, and those come again.
        submitter = Submitter(places, scratch / held.name, (str(held.lock.path), held.name))
        try:
            yield submitter
        except BaseException:
            held.lock.release()  # tells the local jobs to end
            raise
        finally:
            submitter.close()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _weights(jobs: dict[str, Job]) -> dict[str, float]:
    """Expected seconds of each job with the longest chain of jobs that wait for it."""
    weights: dict[str, float] = {}

    def weight(name: str) -> float:
        if name not in weights:
            after = [weight(other.name) for other in jobs.values() if name in other.needs]
            weights[name] = jobs[name].seconds + max(after, default=0.0)
        return weights[name]

    return {name: weight(name) for name in jobs}
