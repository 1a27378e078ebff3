"""Finished jobs are kept, crashed ones tried once more, the order is right, nobody runs twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from tests.jobs.commands import ONE, job, journal, run

WAIT_SECONDS = 20.0


def until(condition: object) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_finished_jobs_never_run_again(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "a", "echo '{\"score\": 7}' > result.json"), job(tmp_path, "b")]
    outcome, lines = run(tmp_path, *jobs)
    assert outcome.complete
    assert lines[-1] == "2 jobs run"
    assert jobs[0].record()["result"] == {"score": 7}
    assert jobs[1].record()["result"] is None
    start = time.monotonic()
    again, lines = run(tmp_path, *jobs)
    assert time.monotonic() - start < 0.1
    assert again.complete
    assert lines == ["0 jobs run"]
    assert sorted(journal(tmp_path)) == ["a", "b"]
    assert not [path for path in tmp_path.iterdir() if path.name == ".submitted"]


def test_a_crashed_job_is_tried_once_more(tmp_path: Path) -> None:
    weak = job(tmp_path, "weak", "test -e tried || { touch tried; echo boom; exit 1; }")
    outcome, lines = run(tmp_path, weak)
    assert outcome.complete
    assert journal(tmp_path) == ["weak", "weak"]
    assert any("weak crashed and will be tried once more: boom" in line for line in lines)
    assert lines[-1] == "1 jobs run"


def test_a_failed_job_takes_along_only_those_that_need_it(tmp_path: Path) -> None:
    bad = job(tmp_path, "bad", "echo first; echo 'ValueError: no' >&2; exit 3")
    after = job(tmp_path, "after", needs=("bad",))
    last = job(tmp_path, "last", needs=("after", "good"))
    good = job(tmp_path, "good")
    outcome, lines = run(tmp_path, last, after, bad, good)
    assert journal(tmp_path).count("bad") == 2
    assert set(journal(tmp_path)) == {"bad", "good"}
    failure = outcome.failed["bad"]
    assert (failure.code, failure.line) == (3, "ValueError: no")
    assert failure.log.read_text().count("\nfirst\nValueError: no\n") == 2
    assert outcome.skipped == {
        "after": "not run: needs bad",
        "last": "not run: needs after",
    }
    assert lines[-2] == f"bad failed: ValueError: no (see {failure.log})"
    assert lines[-1] == "2 jobs run"


def test_wrong_input_is_not_tried_again(tmp_path: Path) -> None:
    outcome, _ = run(tmp_path, job(tmp_path, "wrong", "echo 'rrr: error: no' >&2; exit 2"))
    assert outcome.failed["wrong"].line == "rrr: error: no"
    assert journal(tmp_path) == ["wrong"]


def test_a_failed_job_runs_again_with_the_next_call(tmp_path: Path) -> None:
    mended = job(tmp_path, "mended", "test -e ../mended.txt || exit 2")
    assert not run(tmp_path, mended)[0].complete
    (tmp_path / "mended.txt").touch()
    outcome, lines = run(tmp_path, mended)
    assert outcome.complete
    assert lines[-1] == "1 jobs run"


def test_the_longest_way_to_the_end_goes_first(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "long", seconds=30),
        job(tmp_path, "start", seconds=5),
        job(tmp_path, "end", seconds=40, needs=("start",)),
    ]
    run(tmp_path, *jobs, places=ONE)
    assert journal(tmp_path) == ["start", "end", "long"]


def test_two_places_work_at_once(tmp_path: Path) -> None:
    # Each waits for the other's file, so one after the other they would never end.
    meet = "touch here; while ! test -e ../{}/here; do sleep 0.02; done"
    outcome, _ = run(
        tmp_path, job(tmp_path, "a", meet.format("b")), job(tmp_path, "b", meet.format("a"))
    )
    assert outcome.complete


def test_a_job_whose_process_is_killed_is_tried_again(tmp_path: Path) -> None:
    # The command's parent is the process that watches it.
    outcome, lines = run(
        tmp_path, job(tmp_path, "a", "test -e tried || { touch tried; kill -9 $PPID; sleep 1; }")
    )
    assert outcome.complete
    assert journal(tmp_path) == ["a", "a"]
    assert any("its process was killed" in line for line in lines)


def test_a_command_that_is_killed_says_by_what(tmp_path: Path) -> None:
    outcome, lines = run(tmp_path, job(tmp_path, "greedy", "echo step 7; kill -9 $$"))
    failure = outcome.failed["greedy"]
    assert (failure.code, failure.line) == (-9, "killed by SIGKILL (out of memory?); step 7")
    assert journal(tmp_path) == ["greedy", "greedy"]
    assert lines[-2].startswith("greedy failed: killed by SIGKILL (out of memory?); step 7 (see ")


def test_the_last_line_is_what_was_printed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What Python keeps in its buffer would otherwise follow the error.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = "print('step 7'); raise RuntimeError('boom')"
    outcome, _ = run(tmp_path, job(tmp_path, "a", f'{sys.executable} -c "{program}"'))
    assert outcome.failed["a"].line == "RuntimeError: boom"


RUNNER = """
import sys
from pathlib import Path
from tests.jobs.commands import job, run
home = Path(sys.argv[1])
jobs = [
    job(home, "quick", "echo 1 > result.json", seconds=9),
    job(home, "slow", "echo $$ > pid; sleep 0.1; test -e ../go || sleep 60", seconds=5),
    job(home, "after", "echo 3 > result.json", needs=("slow",)),
]
print(run(home, *jobs)[1][-1])
"""


def start_runner(home: Path) -> subprocess.Popen[bytes]:
    """Starts a runner that Ctrl-C reaches also where the tests run in the background."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with (home / "out").open("w") as out, (home / "err").open("w") as err:
            return subprocess.Popen([sys.executable, "-c", RUNNER, home], stdout=out, stderr=err)
    finally:
        signal.signal(signal.SIGINT, former)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_runner_leaves_nothing_behind_and_can_go_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    runner = start_runner(tmp_path)
    until(lambda: (tmp_path / "quick/done.json").exists() and (tmp_path / "slow/pid").exists())
    until(lambda: (tmp_path / "slow/pid").read_text().strip())
    with pytest.raises(InputError, match=f"process {runner.pid} on .* is running the jobs"):
        run(tmp_path, job(tmp_path, "another"))
    os.kill(runner.pid, number)
    assert runner.wait(WAIT_SECONDS) != 0
    command = int((tmp_path / "slow/pid").read_text())
    until(lambda: not is_alive(command))
    (tmp_path / "go").touch()
    second = start_runner(tmp_path)
    assert second.wait(WAIT_SECONDS) == 0, (tmp_path / "err").read_text()
    assert (tmp_path / "out").read_text() == "2 jobs run\n"
    assert sorted(journal(tmp_path)[:2]) == ["quick", "slow"]
    assert journal(tmp_path)[2:] == ["slow", "after"]
