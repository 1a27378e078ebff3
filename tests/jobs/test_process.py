"""One command in one folder: its marker, its log, its lock, and its end when it is left alone."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from rrr_lightning.files import read_json
from rrr_lightning.jobs import process
from rrr_lightning.jobs.locks import Lock, holder
from rrr_lightning.jobs.process import ABANDONED, LOCK, last_line, run_command, still_running


def sh(home: Path, script: str, runner: tuple[str, str] | None = None, **variables: str) -> int:
    command = ["sh", "-c", f"cd {home}; {script}"]
    return run_command(str(home), command, variables, runner)


def test_the_marker_holds_the_result(tmp_path: Path) -> None:
    assert sh(tmp_path, 'echo "[$X]" > result.json; echo said', X="3") == 0
    record = read_json(tmp_path / "done.json")
    assert record["result"] == [3]
    assert record["seconds"] >= 0
    assert (tmp_path / "log.txt").read_text().endswith("\nsaid\n")


def test_a_finished_command_does_not_run_again(tmp_path: Path) -> None:
    assert sh(tmp_path, "echo 1 > result.json") == 0
    assert sh(tmp_path, "echo 2 > result.json") == 0
    assert read_json(tmp_path / "done.json")["result"] == 1


def test_a_crash_leaves_no_marker_and_no_result_for_the_next_attempt(tmp_path: Path) -> None:
    assert sh(tmp_path, "echo 1 > result.json; exit 7") == 7
    assert not (tmp_path / "done.json").exists()
    assert sh(tmp_path, ":") == 0
    assert read_json(tmp_path / "done.json")["result"] is None


def test_a_command_ends_with_its_runner(tmp_path: Path) -> None:
    lock = Lock(tmp_path / ".runner")
    assert lock.take({"name": "x"})
    timer = threading.Timer(0.3, lock.release)
    timer.start()
    start = time.monotonic()
    assert sh(tmp_path / "job", "sleep 60", (str(lock.path), "x")) == ABANDONED
    assert time.monotonic() - start < 5
    assert not (tmp_path / "job" / "done.json").exists()
    # The same where another runner has taken over.
    assert lock.take({"name": "y"})
    assert sh(tmp_path / "job", "sleep 60", (str(lock.path), "x")) == ABANDONED
    lock.release()


def test_a_command_that_will_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    runner = (str(tmp_path / ".runner"), "gone")
    home = tmp_path / "job"
    lock = Lock(Path(runner[0]))
    assert lock.take({"name": "gone"})
    threading.Timer(0.5, lock.release).start()
    assert sh(home, "trap '' TERM; while :; do sleep 0.1; done", runner) == ABANDONED


def test_a_folder_in_use_is_waited_for(tmp_path: Path) -> None:
    other = Lock(tmp_path / ".lock")
    assert other.take({"host": "elsewhere"})
    threading.Timer(0.4, other.release).start()
    start = time.monotonic()
    assert sh(tmp_path, ":") == 0
    assert time.monotonic() - start > 0.3


def test_a_waiting_process_ends_with_its_runner(tmp_path: Path) -> None:
    other = Lock(tmp_path / ".lock")
    assert other.take({"host": "elsewhere"})
    assert sh(tmp_path, ":", (str(tmp_path / ".runner"), "gone")) == ABANDONED
    other.release()


def test_a_command_left_over_from_a_killed_process_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.3)
    lock = Lock(tmp_path / ".lock")
    assert lock.take({})
    left = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()], start_new_session=True)
    lock.write({**process._me(("", "an earlier runner")), "group": left.pid})
    lock.release()
    assert holder(lock.path)
    assert sh(tmp_path, ":") == 0
    assert left.wait() == -9


def test_who_runs_a_job_is_known_and_a_local_one_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert still_running(tmp_path) is None
    lock = Lock(tmp_path / LOCK)
    assert lock.take(process._me(None))
    note = still_running(tmp_path)
    assert note is not None
    assert note["pid"] == os.getpid()
    lock.write(process._me(("", "an earlier runner")))
    threading.Timer(0.3, lock.release).start()
    assert still_running(tmp_path) is None
    # One that does not end is named after a while.
    monkeypatch.setattr(process, "GRACE_SECONDS", -10 * process.POLL_SECONDS)
    assert lock.take(process._me(("", "an earlier runner")))
    assert (still_running(tmp_path) or {})["runner"] == "an earlier runner"
    lock.release()


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("$ train\nTraceback\nValueError: no\n\n", "ValueError: no"),
        ("$ train\n  1%\r 50%\r", "50%"),
        ("$ train\n", "it printed nothing"),
        ("x" * 30_000 + "\nlast", "last"),
        (None, "the job never started"),
    ],
)
def test_the_last_line_says_what_happened(log: str | None, line: str, tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    if log is not None:
        path.write_text(log)
    assert last_line(path) == line
