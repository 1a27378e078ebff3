"""A student trained from stored targets is the student trained with the teachers themselves."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import nn

from rrr_lightning.callbacks.cost_ledger import CostLedger
from rrr_lightning.data.sampling import BatchPlan
from rrr_lightning.distillation import targets as targets_file
from rrr_lightning.distillation.losses import LogitMSE
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.sparse_targets import SparseTargets
from rrr_lightning.distillation.targets import TargetStore
from rrr_lightning.errors import InputError
from rrr_lightning.targets import plan as plan_file
from tests.data.toy import Notes, NumberedData
from tests.targets.runs import (
    assert_like,
    classifier,
    digits,
    sure,
    train,
    with_targets,
    with_teachers,
    write,
)

HALF = 5e-3  # halves have 11 bits; batch norm over few images makes more of it
TEACHERS = [sure(seed) for seed in (7, 8)]


# ------------------------------------------------------------------------------ equivalence


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss": LogitMSE()},
        {"pool": TeacherPool(per_step="all")},
        {"schedule": {"start": 0.2, "until": 1.0, "every_n_steps": 2}},
    ],
    ids=str,
)
def test_all_classes_train_like_the_teachers(tmp_path: Path, settings: dict[str, Any]) -> None:
    write(tmp_path / "targets", TEACHERS, kind="dense", **settings)
    live = train(tmp_path, with_teachers(TEACHERS, **settings))
    stored = train(tmp_path, with_targets(tmp_path / "targets", **settings))
    assert_like(stored, live, tolerance=HALF)
    assert any("agreement" in row for row in live[0])


def test_five_classes_of_ten_train_nearly_like_the_teachers(tmp_path: Path) -> None:
    write(tmp_path / "targets", TEACHERS, classes=5)
    live = train(tmp_path, with_teachers(TEACHERS))
    stored = train(tmp_path, with_targets(tmp_path / "targets"))
    assert [row["agreement"] for row in stored[0][:2]] == [row["agreement"] for row in live[0][:2]]
    # Merging classes lowers the divergence; the weights move alike.
    for one, other in zip(stored[0][:4], live[0][:4], strict=True):
        assert 0.7 < one["distillation_loss"] / other["distillation_loss"] < 1.001
    assert (stored[1] - live[1]).norm() < 0.2 * live[1].norm()


@pytest.mark.parametrize("written", [3, None])
@pytest.mark.parametrize("read", [6, 4])
def test_micro_batches_read_their_share(tmp_path: Path, written: int | None, read: int) -> None:
    folder = tmp_path / "targets"
    write(folder, TEACHERS, kind="dense", data=digits(micro_batch_size=written))
    live, stored = (
        train(tmp_path, callback, data=digits(micro_batch_size=read))
        for callback in (with_teachers(TEACHERS), with_targets(folder))
    )
    assert_like(stored, live, tolerance=HALF)


def test_ranks_read_their_share(tmp_path: Path) -> None:
    write(tmp_path, TEACHERS, classes=3)
    store = TargetStore(tmp_path)
    whole = store.read(2, range(12))
    for micro_batch_size in (6, 3, 2):
        plans = [BatchPlan(12, micro_batch_size, 2, rank) for rank in range(2)]
        shares = [
            (plan.places(number), store.read(2, plan.places(number)))
            for number in range(plans[0].accumulation)
            for plan in plans
        ]
        assert sorted(place for places, _ in shares for place in places) == [*range(12)]
        for places, share in shares:
            _assert_equal(share, whole[places.start : places.stop])


def _assert_equal(one: SparseTargets, other: SparseTargets) -> None:
    assert torch.equal(one.log_p, other.log_p)
    assert torch.equal(one.classes_NK, other.classes_NK)


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_mixed_images_are_those_of_the_run(tmp_path: Path, micro_batch_size: int | None) -> None:
    def mixing() -> dict[str, Any]:
        data = digits(micro_batch_size=micro_batch_size)
        return {"module": classifier(mixup_alpha=0.5), "data": data}

    write(tmp_path / "targets", TEACHERS, kind="dense", **mixing())
    live = train(tmp_path, with_teachers(TEACHERS), **mixing())
    stored = train(tmp_path, with_targets(tmp_path / "targets"), **mixing())
    assert_like(stored, live, tolerance=HALF)


def test_a_module_of_another_project_over_data_of_this_library(tmp_path: Path) -> None:
    folder, settings = tmp_path / "targets", {"student_logits": "net"}
    teacher = nn.Linear(6, 3)
    write(folder, [teacher], kind="dense", module=Notes(), data=NumberedData(), **settings)
    live, stored = (
        train(tmp_path, callback, module=Notes(), data=NumberedData())
        for callback in (with_teachers([teacher], **settings), with_targets(folder, **settings))
    )
    assert_like(stored, live, tolerance=HALF)
    torch.testing.assert_close(stored[1], live[1], rtol=1e-2, atol=1e-3)


# ------------------------------------------------------------------------------ going on


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_file, "STEPS_PER_SHARD", 1)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    shards = (folder / "shards").iterdir()
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in shards}


def in_a_child(act: Callable[[], None]) -> int:
    """Runs in a forked process; returns the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_the_second_shard(folder: Path) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("shard 1"):
            targets_file.save_file = save_half

    def save_half(arrays: Any, part: Path) -> None:
        part.write_bytes(b"half of it")
        die()

    write(folder, TEACHERS, classes=3, say=say)


def die_after_the_second_shard(folder: Path) -> None:
    write(folder, TEACHERS, classes=3, say=lambda line: line.startswith("shard 2") and die())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("act", [die_in_the_second_shard, die_after_the_second_shard])
def test_a_killed_writer_goes_on(tmp_path: Path, small_shards: None, act: Any) -> None:
    folder = tmp_path / "killed"
    assert in_a_child(lambda: act(folder)) == -signal.SIGKILL
    with pytest.raises(InputError, match="shards are missing"):
        TargetStore(folder)
    left = contents(folder)
    lines = write(folder, TEACHERS, classes=3)
    write(tmp_path / "whole", TEACHERS, classes=3)
    there, whole = contents(folder), contents(tmp_path / "whole")
    assert {name: there[name][0] for name in there} == {name: whole[name][0] for name in whole}
    finished = [name for name in left if not name.startswith(".")]
    assert finished
    assert all(there[name] == left[name] for name in finished)
    assert len(lines) == 1 + len(whole) - len(finished)
    ledger = json.loads((folder / "ledger.json").read_text())
    assert ledger["steps"] == len(whole)


def test_a_finished_folder_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, TEACHERS)
    before = contents(tmp_path)
    (line,) = write(tmp_path, TEACHERS)
    assert "0 of them to be written" in line
    assert contents(tmp_path) == before


def test_a_longer_run_adds_shards(tmp_path: Path, small_shards: None) -> None:
    write(tmp_path / "targets", TEACHERS, kind="dense")
    before = contents(tmp_path / "targets")
    write(tmp_path / "targets", TEACHERS, kind="dense", steps=9)
    after = contents(tmp_path / "targets")
    assert all(after[name] == before[name] for name in before)
    live = train(tmp_path, with_teachers(TEACHERS), steps=9)
    assert_like(train(tmp_path, with_targets(tmp_path / "targets"), steps=9), live, tolerance=HALF)
    # The shorter run finds its own as well.
    train(tmp_path, with_targets(tmp_path / "targets"))


# ------------------------------------------------------------------------------ size and cost


def test_the_size_is_told_before(tmp_path: Path, small_shards: None) -> None:
    first, *shards = write(tmp_path, TEACHERS, classes=3)
    assert first.startswith("4 distilled steps with 12 rows of 14 bytes (top_k): 1.69 KiB in 4 sh")
    assert len(shards) == 4
    size = sum(len(content) for content, _ in contents(tmp_path).values())
    assert size == pytest.approx(4 * (12 * 14 + plan_file.HEADER_BYTES), rel=0.1)


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 300})
    monkeypatch.setattr(plan_file.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"^--out: the disk has 300 bytes free, and the targets"):
        write(tmp_path / "targets", TEACHERS)
    assert not (tmp_path / "targets").exists()


def test_ledgers_tell_who_ran(tmp_path: Path) -> None:
    folder = tmp_path / "targets"
    write(folder, TEACHERS)
    written = json.loads((folder / "ledger.json").read_text())
    assert written["steps"] == 4
    assert written["phases"]["teacher_forward"]["count"] == 4
    assert written["flops"]["teacher"] > 0 == written["flops"]["student"]
    assert [teacher["sha256"] for teacher in written["teachers"]] == [
        teacher["sha256"] for teacher in TargetStore(folder).plan.teachers
    ]
    train(tmp_path, with_targets(folder), CostLedger(str(tmp_path / "run.json")))
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["phases"]["teacher_forward"]["count"] == 0 == run["flops"]["teacher"]
    assert run["phases"]["teacher_forward"]["seconds"] > 0  # of reading
    targets, *teachers = run["teachers"]
    assert targets["name"] == str(folder)
    assert targets["ledger"]["run"] == written["run"]
    assert teachers == written["teachers"]


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"pool": TeacherPool(per_rank=True)}, r"^distillation\.pool\.per_rank: "),
        ({"schedule": {"weight": 0.0}}, r"^distillation\.schedule\.weight: no step has"),
        ({"loss": LogitMSE(), "classes": 3}, r"^distillation\.loss: needs more of a row"),
        ({"classes": 10}, r"^--classes: out of range; found 10; .*--kind dense for all 10"),
    ],
    ids=str,
)
def test_what_cannot_be_stored_is_refused(tmp_path: Path, settings: Any, line: str) -> None:
    with pytest.raises(InputError, match=line):
        write(tmp_path / "targets", TEACHERS, **settings)
    assert not (tmp_path / "targets").exists()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"classes": 4}, "--out: the folder holds targets with other encoding"),
        ({"pool": TeacherPool(seed=5)}, "--out: the folder holds targets with other pool"),
        ({"schedule": {"start": 0.5}}, "--out: the folder holds targets of other steps"),
        ({"data": digits(seed=4)}, r"data\.seed: differs from the run that .*accepted: 3"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, settings: Any, line: str) -> None:
    write(tmp_path, TEACHERS, classes=3)
    with pytest.raises(InputError, match=line):
        write(tmp_path, TEACHERS, **{"classes": 3, **settings})


def test_other_teachers_are_refused(tmp_path: Path) -> None:
    write(tmp_path, TEACHERS)
    with pytest.raises(InputError, match="targets with other teachers"):
        write(tmp_path, TEACHERS[:1])


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"), pytest.raises(InputError, match="another process writes"):
        write(tmp_path, TEACHERS)
