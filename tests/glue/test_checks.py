"""A folder whose runs were trained otherwise than its plan says is refused, before any job."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue.checks import check_finished, check_running, check_start
from rrr_lightning.glue.plan import NETWORK, make_plan, write_settings
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.jobs.locks import Lock
from rrr_lightning.jobs.process import LOCK, MARKER, write_json
from tests.glue.made import small_plan


def test_a_start_that_has_kept_no_network_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "mnli-4"
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    plan = make_plan(("rte",), find_protocol(), "a", "data", tmp_path, mnli_seed=4)
    with pytest.raises(InputError) as refused:
        check_start(plan, [])
    assert str(refused.value) == (
        "--out: a finished run of MNLI has kept no network that tasks could start from; "
        f"found '{folder}'; accepted: the same call once it is removed, and the folders of the "
        "runs that started from it"
    )
    (folder / NETWORK).touch()
    check_start(plan, [])


def test_a_start_that_is_gone_is_refused_before_it_is_trained_again(tmp_path: Path) -> None:
    plan = make_plan(("rte",), find_protocol(), "a", "data", tmp_path)
    rte = tmp_path / "jobs" / "rte-19"
    rte.mkdir(parents=True)
    write_json(rte / MARKER, {"result": {}})
    write_json(rte / MARKER, {"result": {"start_sha256": "abc"}})
    with pytest.raises(InputError) as refused:
        check_start(plan, plan.runs)
    assert str(refused.value) == (
        f"--out: rte-19 started from a run of MNLI that is gone; found '{rte}'; accepted: the same "
        "call once the folders of all such runs are removed"
    )
    # Nothing is wrong while the run of MNLI is there.
    mnli = tmp_path / "jobs" / "mnli-19"
    mnli.mkdir()
    write_json(mnli / MARKER, {"result": {}})
    (mnli / NETWORK).touch()
    check_start(plan, plan.runs)


def test_the_settings_of_a_job_that_still_runs_stay(tmp_path: Path) -> None:
    write_settings(small_plan(tmp_path))
    lock = Lock(tmp_path / "jobs" / "cola-1" / LOCK)
    assert lock.take({"host": "node1", "pid": 7, "group": 9, "runner": ""})
    check_running(small_plan(tmp_path))
    other = small_plan(tmp_path, cola={"learning_rate": 1.0, "epochs": 1})
    with pytest.raises(InputError) as refused:
        check_running(other)
    assert str(refused.value) == (
        "--out: cola-1 is still run by the settings of an earlier call, with another epochs and "
        "learning_rate; found 'process 9 on node1'; accepted: the same call after that one has "
        "ended, or the earlier settings"
    )
    lock.release()
    check_running(other)


def test_a_run_that_was_trained_by_other_settings_is_refused(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)

    def finish(name: str, **trained: object) -> Path:
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True, exist_ok=True)
        known = {"metrics": {}, "settings": {}, "fingerprint": "abc"}
        write_json(folder / MARKER, {"result": {**known, **trained}})
        return folder

    finish("rte-1", settings={"learning_rate": 1e-5, "of a later version": 1}, fingerprint="abc")
    check_finished(plan.runs, "abc", "--out")
    folder = finish("cola-1", settings={"learning_rate": 1.0, "max_steps": None})
    with pytest.raises(InputError) as refused:
        check_finished(plan.runs, "abc", "--out")
    assert str(refused.value) == (
        "--out: cola-1 was trained by other settings than those of its folder; found "
        "{'learning_rate': 1.0}; accepted: {'learning_rate': 5e-05}, or the same call once "
        f"{folder} is removed"
    )
    finish("cola-1")
    finish("mnli-1", settings={}, fingerprint="xyz")
    with pytest.raises(
        InputError, match=r"found {'fingerprint': 'xyz'}; .*mnli-1 is removed, and the folders of"
    ):
        check_finished(plan.runs, "abc", "--compare")


def test_a_run_that_started_from_another_run_of_mnli_is_refused(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    mnli, rte = (tmp_path / "jobs" / name for name in ("mnli-1", "rte-1"))
    for folder in (mnli, rte):
        folder.mkdir(parents=True)
    (mnli / NETWORK).write_bytes(b"first")
    start = hashlib.sha256(b"first").hexdigest()
    known = {"metrics": {}, "settings": {}, "fingerprint": "abc"}
    write_json(rte / MARKER, {"result": {**known, "start_sha256": start}})
    check_finished(plan.runs, "abc", "--out")
    (mnli / NETWORK).write_bytes(b"second")
    with pytest.raises(InputError) as refused:
        check_finished(plan.runs, "abc", "--out")
    assert str(refused.value) == (
        "--out: rte-1 started from another run of MNLI than the one that is there now; found "
        f"'{mnli / NETWORK}'; accepted: the same call once {rte} is removed"
    )
    (mnli / NETWORK).unlink()
    check_finished(plan.runs, "abc", "--out")
