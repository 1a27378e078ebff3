"""The last step is validated, once, whatever the interval; and a validation alone leaves a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrr_lightning.metrics_file import read_rows
from tests.cli_runs import FIT, Command

LAST = "--trainer.callbacks+=rrr_lightning.study.last_validation.LastValidation"


def validated(folder: Path) -> list[int]:
    _, rows = read_rows(folder / "metrics.csv")
    return [int(row["step"]) for row in rows if row.get("val/loss")]


@pytest.mark.parametrize(
    ("interval", "steps"), [("100", [3]), ("3", [2, 3]), ("2", [1, 3]), ("4", [3])]
)
def test_the_last_step_is_validated_once(rrr: Command, interval: str, steps: list[int]) -> None:
    rrr(*FIT, LAST, f"--trainer.val_check_interval={interval}", "--trainer.default_root_dir=out")
    assert validated(Path("out")) == steps


def test_it_changes_no_weight_and_a_longer_run_goes_on(rrr: Command) -> None:
    import torch

    rest = ("--trainer.val_check_interval=100", "--model.warmup_steps=1")
    rrr(*FIT, *rest, "--trainer.default_root_dir=plain")
    rrr(*FIT, *rest, LAST, "--trainer.default_root_dir=out")
    plain, out = (
        torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for folder in ("plain", "out")
    )
    assert all(torch.equal(plain[name], out[name]) for name in plain)
    longer = ("--trainer.max_steps=6", "--ckpt_path=last", "--trainer.default_root_dir=out")
    rrr(*FIT, *rest, LAST, *longer)
    assert validated(Path("out")) == [3, 5]


def test_a_validation_alone_leaves_its_metrics(rrr: Command) -> None:
    rrr(*FIT, LAST, "--trainer.default_root_dir=out", "--trainer.val_check_interval=4")
    _, rows = read_rows("out/metrics.csv")
    assert not Path("out/validated.json").exists()
    rrr("validate", "--config=out/config.yaml", "--ckpt_path=last")
    metrics = json.loads(Path("out/validated.json").read_text())
    assert metrics["val/loss"] == pytest.approx(float(rows[-1]["val/loss"]), rel=1e-6)
