"""The command line measures every training run, unless it is told not to."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli_runs import FIT, Command
from tests.test_cli_kill import STEPS, last, make_config
from tests.test_cli_kill import run as run_and_die
from tests.test_cli_kill import teachers as teachers

RUN = "--trainer.default_root_dir=run"


def ledger(folder: str | Path = "run") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(folder, "ledger.json").read_text())
    return content


def test_a_run_keeps_a_ledger_and_logs_its_cost(rrr: Command) -> None:
    rrr(*FIT, RUN, "--cost.price_per_device_hour=2")
    found = ledger()
    assert found["steps"] == 4
    assert found["money"] == pytest.approx(2 * found["seconds"] / 3600)
    assert found["phases"]["checkpoint"]["count"] == 1
    assert found["phases"]["validation"]["count"] == 0
    assert found["hardware"]["device"]
    assert found["teachers"] == []
    with Path("run", "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    seconds = [float(row["cost/seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    assert float(rows[-1]["cost/flops"]) == pytest.approx(found["flops"]["student"])
    stored = torch.load("run/checkpoints/last.ckpt", weights_only=True)["callbacks"]["CostLedger"]
    assert (stored["run"], stored["steps"]) == (found["run"], 4)


def test_it_can_be_switched_off_and_on_again(rrr: Command) -> None:
    rrr(*FIT, RUN)
    kept = Path("run", "ledger.json").read_text()
    rrr(*FIT, RUN, "--ckpt_path=last", "--trainer.max_steps=6", "--ledger=false")
    assert Path("run", "ledger.json").read_text() == kept
    rrr(*FIT, "--trainer.default_root_dir=off", "--ledger=false")
    assert not Path("off", "ledger.json").exists()
    assert "cost/" not in Path("off", "metrics.csv").read_text()
    rrr(*FIT, "--trainer.default_root_dir=off", "--ckpt_path=last", "--trainer.max_steps=6")
    assert (ledger("off")["steps"], ledger("off")["step"]) == (2, 6)


def test_a_resumed_run_adds_up(rrr: Command) -> None:
    rrr(*FIT, RUN)
    first = ledger()
    rrr(*FIT, RUN, "--ckpt_path=last", "--trainer.max_steps=6")
    found = ledger()
    assert (found["run"], found["steps"], found["redone_steps"]) == (first["run"], 6, 0)
    assert found["seconds"] > first["seconds"]
    assert found["flops"]["student"] == pytest.approx(1.5 * first["flops"]["student"])


def test_ones_own_callback_is_the_only_one(rrr: Command) -> None:
    own = '--trainer.callbacks={"class_path": "CostLedger", "init_args": {"path": "mine.json"}}'
    rrr(*FIT, RUN, own)
    assert Path("mine.json").exists()
    assert not Path("run", "ledger.json").exists()


def test_judging_a_checkpoint_costs_nothing(rrr: Command) -> None:
    rrr(*FIT, RUN)
    kept = Path("run", "ledger.json").read_text()
    rrr("validate", *FIT[1:], RUN, "--ckpt_path=last")
    assert Path("run", "ledger.json").read_text() == kept


def test_a_bad_price_is_refused(refused: Callable[..., str]) -> None:
    line = refused(*FIT, RUN, "--cost.price_per_device_hour=-1")
    assert line.startswith("cost.price_per_device_hour: must not be negative; found -1")


@pytest.mark.slow
def test_what_a_kill_loses_is_paid_twice(tmp_path: Path, teachers: list[str]) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        config = make_config(folder, teachers, limit_val_batches=0)  # each one saves a checkpoint
        config["cost"] = {"every_n_seconds": 1e-6}
        config["checkpoint"]["every_n_steps"] = 4
        if folder == killed:  # before the first checkpoint, and between two others
            assert run_and_die(folder, config, kill_at=[3, 1]) == -signal.SIGKILL
            assert run_and_die(folder, config, resume=True, kill_at=[7, 0]) == -signal.SIGKILL
            assert (ledger(folder)["steps"], ledger(folder)["redone_steps"]) == (3 + 7, 3)
        assert run_and_die(folder, config, resume=folder == killed) == 0
    found, undisturbed = ledger(killed), ledger(whole)
    assert (found["steps"], found["redone_steps"], found["step"]) == (STEPS + 6, 6, STEPS)
    assert (undisturbed["steps"], undisturbed["redone_steps"]) == (STEPS, 0)
    each = undisturbed["flops"]["student"] / STEPS
    # A step that a kill cut short is paid, too, as far as it had come: two micro-batches of three.
    assert found["flops"]["student"] == pytest.approx((STEPS + 6) * each, rel=0.05)
    assert last(killed)["callbacks"]["CostLedger"]["run"] == found["run"]
