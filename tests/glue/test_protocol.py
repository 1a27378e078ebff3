"""The published table to the digit, and overrides that cannot be wrong in silence."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.errors import InputError
from rrr_lightning.glue.protocol import PROTOCOLS, find_protocol

# task: start, epochs, batch, learning rate, decay as torch's AdamW takes it, precision, seeds
PUBLISHED = {
    "mnli": ("checkpoint", 3, 48, 5e-5, 0.1, "bf16", (19,)),
    "qqp": ("checkpoint", 5, 16, 3e-5, 0.1, "bf16", (19,)),
    "qnli": ("checkpoint", 10, 16, 1e-5, 0.1, "bf16", (19,)),
    "sst2": ("checkpoint", 3, 16, 3e-5, 0.1, "bf16", (19, 8364, 717)),
    "cola": ("checkpoint", 10, 32, 5e-5, 0.1, "bf16", (19, 8364, 717, 10536)),
    "rte": ("mnli", 3, 16, 1e-5, 1.0, "bf16", (19, 8364, 717, 10536, 90166)),
    "mrpc": ("mnli", 10, 32, 8e-5, 0.1, "bf16", (19, 8364, 717, 10536, 90166)),
    "stsb": ("mnli", 10, 32, 3e-5, 0.1, "32", (19, 8364, 717, 10536, 90166)),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_published_table(task: str) -> None:
    cell = find_protocol("published").tasks[task]
    found = (
        cell.start,
        cell.epochs,
        cell.batch_size,
        cell.learning_rate,
        cell.weight_decay,
        cell.precision,
        cell.seeds,
    )
    assert found == PUBLISHED[task]
    assert (cell.max_length, cell.warmup_fraction, cell.max_steps) == (256, 0.06, None)
    assert cell.dropout == 0.1


def test_every_protocol_knows_every_task() -> None:
    for protocol in PROTOCOLS.values():
        assert set(protocol.tasks) == set(TASKS)


@pytest.mark.parametrize("name", ["quick", "single"])
def test_the_light_protocols_start_every_task_from_pre_training(name: str) -> None:
    assert {cell.start for cell in find_protocol(name).tasks.values()} == {"checkpoint"}


def test_the_single_setting_is_one_setting() -> None:
    cells = find_protocol("single").tasks.values()
    assert len({dataclasses.replace(cell, precision="bf16") for cell in cells}) == 1


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_scores_are_computed_in_32_bits(name: str) -> None:
    cells = find_protocol(name).tasks.items()
    assert {task for task, cell in cells if cell.precision == "32"} == {"stsb"}


def test_steps_follow_from_rows_unless_they_are_given() -> None:
    cell = find_protocol("published").tasks["mnli"]
    assert cell.steps(392_702) == round(3 * 392_702 / 48)
    assert cell.steps(1) == 1
    cell = find_protocol("published", {"mnli": {"max_steps": 7}}).tasks["mnli"]
    assert (cell.steps(392_702), cell.steps(20)) == (7, 1)


def test_any_cell_can_be_overridden_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        "SST-2: {learning_rate: 1e-4, seeds: [1, 2]}\n"
        "every_task: {max_steps: 5, learning_rate: 2e-5, weight_decay: 0, precision: 32}\n"
    )
    protocol = find_protocol("published", path)
    assert protocol.name == "published, changed"
    assert protocol.tasks["sst2"].learning_rate == 1e-4
    assert protocol.tasks["sst2"].seeds == (1, 2)
    assert protocol.tasks["rte"].learning_rate == 2e-5
    assert protocol.tasks["rte"].start == "mnli"
    assert {cell.max_steps for cell in protocol.tasks.values()} == {5}
    assert {cell.precision for cell in protocol.tasks.values()} == {"32"}


def test_seeds_hold_for_every_task() -> None:
    protocol = find_protocol("quick", seeds=[4, 5])
    assert {cell.seeds for cell in protocol.tasks.values()} == {(4, 5)}
    assert protocol.name == "quick, other seeds"
    assert find_protocol("quick").name == "quick"


def test_seeds_of_the_call_hold_over_those_of_the_settings() -> None:
    settings = {"every_task": {"seeds": [1]}, "rte": {"seeds": [2, 3], "epochs": 1}}
    protocol = find_protocol("quick", settings, seeds=[4, 5])
    assert {cell.seeds for cell in protocol.tasks.values()} == {(4, 5)}
    assert protocol.tasks["rte"].epochs == 1
    for seeds in ([1, 1], []):
        with pytest.raises(InputError) as refused:
            find_protocol("quick", settings, seeds=seeds)
        assert str(refused.value) == (
            f"--seeds: out of range; found {seeds}; accepted: different whole numbers, such as "
            "[19, 717]"
        )


def test_whole_numbers_are_read_to_the_last_digit() -> None:
    seeds = [2**53 + 1, 2**64 + 1, str(2**53 + 3), 5.0]
    cell = find_protocol("quick", {"rte": {"seeds": seeds, "max_steps": "1e3"}}).tasks["rte"]
    assert cell.seeds == (2**53 + 1, 2**64 + 1, 2**53 + 3, 5)
    assert cell.max_steps == 1000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"rtee": {"epochs": 1}}, "--settings: no task of GLUE; did you mean 'rte'"),
        ({"rte": {"epoch": 1}}, "--settings rte.epoch: no such setting; did you mean 'epochs'"),
        ({"rte": {"epochs": 0}}, "--settings rte.epochs: out of range; found 0; accepted: a num"),
        ({"rte": {"epochs": math.inf}}, "--settings rte.epochs: out of range; found inf"),
        ({"rte": {"epochs": math.nan}}, "--settings rte.epochs: out of range; found nan"),
        ({"rte": {"max_steps": math.inf}}, "--settings rte.max_steps: out of range; found inf"),
        ({"rte": {"seeds": [math.inf]}}, "--settings rte.seeds: out of range"),
        ({"rte": {"learning_rate": math.inf}}, "--settings rte.learning_rate: out of range"),
        ({"rte": {"weight_decay": math.inf}}, "--settings rte.weight_decay: out of range"),
        ({"rte": {"batch_size": 3.5}}, "rte.batch_size: out of range; found 3.5"),
        ({"rte": {"learning_rate": "much"}}, "rte.learning_rate: out of range; found 'much'"),
        ({"rte": {"seeds": [1, 1]}}, "rte.seeds: out of range"),
        ({"rte": {"seeds": []}}, "rte.seeds: out of range"),
        ({"rte": {"seeds": "19"}}, "rte.seeds: out of range; found '19'; accepted: different whol"),
        ({"rte": {"seeds": {1: 2}}}, "rte.seeds: out of range"),
        ({"rte": {"seeds": [2.0**53 + 2]}}, "rte.seeds: out of range"),
        ({"rte": {"epochs": True}}, "rte.epochs: out of range; found True; accepted: a number"),
        ({"rte": {"weight_decay": False}}, "rte.weight_decay: out of range; found False"),
        ({1: {"epochs": 1}}, "--settings: no task of GLUE; found '1'; accepted: cola"),
        ({None: {"epochs": 1}}, "--settings: no task of GLUE.*; found 'None'"),
        ({"rte": {1: 2}}, "--settings rte.1: no such setting"),
        (
            {"SST-2": {"epochs": 1}, "rte": {}, "sst2": {"epochs": 2}},
            "--settings: names sst2 twice; found 'SST-2, rte, sst2'",
        ),
        ({"rte": {"start": "mnl"}}, "rte.start: out of range; found 'mnl'; accepted: checkpoint"),
        ({"rte": {"warmup_fraction": 1}}, "accepted: a number in"),
        ({"rte": {"dropout": 1}}, r"rte.dropout: out of range; found 1; accepted: null, or in \[0"),
        ({"rte": {"dropout": False}}, "rte.dropout: out of range; found False"),
        ({"every_task": {"max_steps": 0}}, "--settings every_task.max_steps: out of range"),
        ({"mnli": {"start": "mnli"}}, "--settings mnli.start: cannot start from itself"),
        ({"rte": 3}, "--settings: not a table"),
        ([1], "--settings: not a table"),
    ],
)
def test_wrong_overrides_are_refused(overrides: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_protocol("published", overrides)


def test_unreadable_files_and_unknown_protocols_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    for path in ("bad.yaml", "none.yaml"):
        with pytest.raises(InputError, match=r"--settings: .*(is not YAML|cannot be read)"):
            find_protocol("quick", tmp_path / path)
    with pytest.raises(InputError, match="no such protocol; did you mean 'published'"):
        find_protocol("publish")
