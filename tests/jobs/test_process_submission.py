"""Jobs in the queue of a cluster; programs with SLURM's names stand in for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.jobs import Places, find_places, runner
from rrr_lightning.jobs.process import write_json
from tests.jobs.commands import job, journal, run

# `sbatch` starts the script at once in the background, and has no room for those submissions whose
# numbers are in the file `full`; `srun` leaves out its own options.
SBATCH = """#!/bin/sh
grep -q bad_partition "$1" && { echo "invalid partition" >&2; exit 1; }
echo "$1" >> "$QUEUE/asked"
grep -qsx "$(wc -l < "$QUEUE/asked")" "$QUEUE/full" && { echo "the queue is full" >&2; exit 1; }
cat "$1" >> "$QUEUE/scripts"
export SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0
setsid sh -c 'export SLURM_JOB_ID=$$; exec bash "$0"' "$1" > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SRUN = """#!/bin/sh
shift 5
exec "$@"
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
"""
SCANCEL = """#!/bin/sh
echo "$@" >> "$QUEUE/cancelled"
kill -9 "-$1"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    queue = tmp_path / "queue"
    queue.mkdir()
    programs = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
    for name, script in programs.items():
        path = queue / name
        path.write_text(script)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{queue}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(queue))
    return queue


def test_jobs_go_through_the_queue(cluster: Path, tmp_path: Path) -> None:
    places = find_places("slurm:3", {"slurm_partition": "long", "gpus_per_node": 1})
    good = job(tmp_path, "good", "echo $SLURM_NTASKS > result.json")
    bad = job(tmp_path, "bad", "echo boom; exit 3")
    after = job(tmp_path, "after", needs=("good",))
    outcome, _ = run(tmp_path, good, bad, after, places=places)
    assert good.record()["result"] == 1
    assert after.finished
    assert (outcome.failed["bad"].code, outcome.failed["bad"].line) == (3, "boom")
    assert sorted(journal(tmp_path)) == ["after", "bad", "bad", "good"]
    scripts = (cluster / "scripts").read_text()
    assert scripts.count("#SBATCH --partition=long") == 4
    assert "#SBATCH --job-name=after" in scripts


def test_a_job_that_an_earlier_runner_queued_counts(cluster: Path, tmp_path: Path) -> None:
    # While ours waits in the queue, the job of a runner that was killed finishes.
    waiting = job(tmp_path, "a", "test -e done.json || sleep 5")
    marker = tmp_path / "a" / "done.json"

    def finish() -> None:
        while not (tmp_path / "journal").exists():
            time.sleep(0.05)
        write_json(marker, {"result": 5})

    threading.Thread(target=finish, daemon=True).start()
    outcome, _ = run(tmp_path, waiting, places=find_places("slurm"))
    assert outcome.complete
    assert waiting.record()["result"] == 5
    assert (cluster / "cancelled").read_text().strip().isdecimal()


def test_what_the_cluster_does_not_take_is_refused(cluster: Path, tmp_path: Path) -> None:
    for parameters, message in (
        ({"slurm_partitoin": "long"}, "--slurm: Unknown argument 'partitoin'"),
        ({"timeout_min": "soon"}, "--slurm: .*timeout_min"),
        ({"slurm_partition": "bad_partition"}, "--slurm: .*invalid partition"),
    ):
        with pytest.raises(InputError, match=message):
            run(tmp_path, job(tmp_path, "a"), places=find_places("slurm", parameters))


def test_a_job_that_the_queue_has_no_room_for_waits_until_another_has_ended(
    cluster: Path, tmp_path: Path
) -> None:
    (cluster / "full").write_text("2\n")
    first = job(tmp_path, "first", "sleep 1; echo ended >> ../journal", seconds=90)
    second = job(tmp_path, "second")
    outcome, lines = run(tmp_path, first, second, places=find_places("slurm"))
    assert outcome.complete
    assert journal(tmp_path) == ["first", "ended", "second"]
    assert any(
        line.startswith("second was not taken and will be tried once more: --slurm: ")
        and line.endswith("the queue is full")
        for line in lines
    )
    assert len((cluster / "asked").read_text().splitlines()) == 3
    assert lines[-1] == "2 jobs run"


def test_a_job_that_is_never_taken_fails_alone(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PAUSE_SECONDS", 0.1)
    (cluster / "full").write_text("2\n3\n4\n")
    jobs = [
        job(tmp_path, "first", "sleep 0.5", seconds=200),
        job(tmp_path, "never", seconds=100),
        job(tmp_path, "after", needs=("never",)),
        job(tmp_path, "last"),
    ]
    outcome, lines = run(tmp_path, *jobs, places=find_places("slurm"))
    assert journal(tmp_path) == ["first", "last"]
    assert list(outcome.failed) == ["never"]
    assert outcome.failed["never"].code is None
    assert outcome.failed["never"].line.endswith("the queue is full")
    assert list(outcome.skipped) == ["after"]
    assert lines[-2] == f"never failed: {outcome.failed['never'].line}"
    assert lines[-1] == "2 jobs run"


def test_local_jobs_see_the_interpreter_and_the_variables_of_their_place(tmp_path: Path) -> None:
    places = Places(({"COLOUR": "1"},))
    where = job(
        tmp_path, "where", f"{sys.executable} -c \"import os; print(os.environ['COLOUR'])\""
    )
    run(tmp_path, where, places=places)
    assert (tmp_path / "where" / "log.txt").read_text().endswith("\n1\n")
