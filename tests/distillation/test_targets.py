"""Targets on the disk: what is read is what was written, for any share of a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.sparse_targets import Encoding, SparseTargets
from rrr_lightning.distillation.targets import (
    MANIFEST,
    TargetPlan,
    TargetStore,
    missing_shards,
    read_plan,
    remove_leftovers,
    shard_path,
    write_plan,
    write_shard,
)
from rrr_lightning.errors import InputError

ENCODING = Encoding("top_k", 20, 4, 2.0)
SAMPLES = 6


def make_plan(steps: range = range(2, 16, 2), has_counts: bool = False) -> TargetPlan:
    teachers = ({"name": "a.ckpt", "sha256": "00"},)
    empty = TargetPlan(
        ENCODING, range(0), (), SAMPLES, has_counts, TeacherPool(), teachers, {"data.seed": 1}
    )
    return empty.extended(steps, steps_per_shard=3)


def counts_of(plan: TargetPlan, ordinal: int) -> Any:
    some = np.random.default_rng(ordinal).integers(0, 4, SAMPLES)
    return some if plan.has_counts else np.ones(SAMPLES, dtype=int)


def rows_of(plan: TargetPlan, ordinal: int) -> Any:
    generator = torch.Generator().manual_seed(ordinal)
    rows = torch.randn(int(counts_of(plan, ordinal).sum()), 20, generator=generator)
    return ENCODING.encode(rows, torch.zeros(len(rows), dtype=torch.float64))


def write(folder: Path, plan: TargetPlan) -> Path:
    write_plan(folder, plan)
    for first, stop in missing_shards(folder, plan):
        steps = range(first, stop)
        counts = [counts_of(plan, step) for step in steps] if plan.has_counts else None
        write_shard(shard_path(folder, first), [rows_of(plan, step) for step in steps], counts)
    return folder


def assert_equal(one: SparseTargets, other: SparseTargets) -> None:
    assert torch.equal(one.log_p, other.log_p)
    assert torch.equal(one.classes_NK, other.classes_NK)
    assert torch.equal(one.top_N, other.top_N)


@pytest.mark.parametrize("has_counts", [False, True])
@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_every_share_finds_its_rows(tmp_path: Path, has_counts: bool, micro_batches: int) -> None:
    plan = make_plan(has_counts=has_counts)
    store = TargetStore(write(tmp_path, plan))
    assert store.plan == plan
    size = SAMPLES // micro_batches
    for ordinal in (3, 0, 6, 5):  # to and fro, over shards
        whole = SparseTargets.of(rows_of(plan, ordinal))
        begin = 0
        for number in range(micro_batches):
            places = range(number * size, (number + 1) * size)
            part = store.read(plan.steps[ordinal], places)
            count = int(counts_of(plan, ordinal)[places.start : places.stop].sum())
            assert_equal(part, whole[begin : begin + count])
            begin += count
        assert begin == len(whole)
    store.close()
    store.read(plan.steps[0], range(SAMPLES))


def test_more_steps_leave_the_shards_alone(tmp_path: Path) -> None:
    plan = make_plan(range(2, 16, 2))
    write(tmp_path, plan)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    longer = plan.extended(range(2, 30, 2), steps_per_shard=4)
    assert longer.shards[: len(plan.shards)] == plan.shards
    assert [step for first, stop in longer.shards for step in range(first, stop)] == [*range(14)]
    assert longer.identity() == plan.identity()
    store = TargetStore(write(tmp_path, longer))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for ordinal in range(14):
        expected = SparseTargets.of(rows_of(plan, ordinal))
        assert_equal(store.read(2 + 2 * ordinal, range(SAMPLES)), expected)


def test_identity_is_of_everything_else() -> None:
    plan = make_plan()
    content = plan.as_json()
    assert TargetPlan.from_json(json.loads(json.dumps(content))) == plan
    for name, value in {
        "encoding": {**content["encoding"], "kept": 5},
        "teachers": [{"name": "a.ckpt", "sha256": "01"}],
        "run": {"data.seed": 2},
        "global_batch_size": 8,
    }.items():
        assert TargetPlan.from_json({**content, name: value}).identity() != plan.identity()


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    write(tmp_path, make_plan())
    left = tmp_path / "shards" / ".00000003.safetensors.part"
    left.write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert not left.exists()
    assert len(list((tmp_path / "shards").iterdir())) == 3


def test_no_targets_are_refused(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    with pytest.raises(InputError, match=r"^distillation\.targets: there is no targets\.json"):
        TargetStore(tmp_path)


def test_missing_shards_are_refused(tmp_path: Path) -> None:
    plan = make_plan()
    shard_path(write(tmp_path, plan), 3).unlink()
    assert missing_shards(tmp_path, plan) == [(3, 6)]
    with pytest.raises(InputError, match="1 of 3 shards are missing, the first for step 8"):
        TargetStore(tmp_path)


def test_a_shard_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = shard_path(write(tmp_path, make_plan()), 0)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"the shard 00000000\.safetensors cannot be read"):
        TargetStore(tmp_path).read(2, range(SAMPLES))


@pytest.mark.parametrize(
    ("content", "line"),
    [("{", "is damaged"), ("{}", "is damaged"), ('{"version": 9}', "another version; found 9")],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, content: str, line: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(InputError, match=line):
        TargetStore(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("global_batch_size", 3),
        ("steps", [3, 17, 2]),
        ("encoding", {"kind": "top_k", "columns": 20, "kept": 4, "temperature": 4.0}),
        ("sha256", "0" * 64),
    ],
)
def test_a_changed_manifest_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    path = write(tmp_path, make_plan()) / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InputError, match=r"^distillation\.targets: \S+targets\.json was changed"):
        TargetStore(tmp_path)


def test_a_shard_copied_over_another_is_refused(tmp_path: Path) -> None:
    write(tmp_path, make_plan())
    shard_path(tmp_path, 3).write_bytes(shard_path(tmp_path, 0).read_bytes())
    store = TargetStore(tmp_path)
    store.read(2, range(SAMPLES))
    with pytest.raises(InputError, match=r"00000003\.safetensors cannot be read .*of this name"):
        store.read(8, range(SAMPLES))


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_shards_of_nan_and_infinity_are_refused(number: float, tmp_path: Path) -> None:
    plan = make_plan()
    write(tmp_path, plan)
    steps = [rows_of(plan, step) for step in range(3)]
    steps[0]["log_p"][1, 2] = number
    write_shard(shard_path(tmp_path, 0), steps, None)
    with pytest.raises(InputError, match="it holds NaN or infinity"):
        TargetStore(tmp_path).read(2, range(SAMPLES))
