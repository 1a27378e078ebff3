"""The configurations of GLUE say what the published protocol says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.glue.protocol import PROTOCOLS
from rrr_lightning.metrics_file import read_rows
from tests.configs.test_all_configs import SMALL, glue, rrr

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "glue"


def test_every_task_has_one() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(TASKS)


@pytest.mark.parametrize("name", list(TASKS))
def test_it_is_the_published_protocol(name: str) -> None:
    run: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    settings, task = PROTOCOLS["published"].tasks[name], TASKS[name]
    trainer, model, data = run["trainer"], run["model"]["init_args"], run["data"]["init_args"]
    assert data["task"] == name
    assert data["global_batch_size"] == settings.batch_size
    assert data["max_length"] == settings.max_length
    assert model["num_classes"] == (len(task.labels) or 1)
    assert model["learning_rate"] == settings.learning_rate
    assert model["weight_decay"] == pytest.approx(settings.weight_decay)
    assert model["dropout"] == settings.dropout
    assert model["warmup_fraction"] == settings.warmup_fraction
    assert model["body"].startswith("runs/glue/mnli/") == (settings.start == "mnli")
    assert trainer["max_steps"] == settings.steps(task.rows["train"])
    assert trainer["precision"].startswith(settings.precision)
    assert run["seed_everything"] == settings.seeds[0]


@pytest.mark.parametrize("name", ["rte", "mnli"])
def test_a_fine_tuned_teacher_is_distilled(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ("fit", f"--config=glue/{name}.yaml", *SMALL, *glue(tmp_path))
    rrr(monkeypatch, *fit, "--trainer.default_root_dir=teacher")
    teacher = "--distillation.teachers=teacher/checkpoints/last.ckpt"
    rrr(monkeypatch, *fit, "--seed_everything=1", "--trainer.default_root_dir=student", teacher)
    _, rows = read_rows(Path("student/metrics.csv"))
    # Two steps: the first is distilled, the second comes after `until`.
    steps = [row for row in rows if row["train/loss"]]
    assert len(steps) == 2
    assert float(steps[0]["train/distillation_weight"]) == pytest.approx(0.9)
    assert steps[1]["train/distillation_weight"] == ""
    assert float(steps[0]["train/distillation_loss"]) > 0
    stored = torch.load("student/checkpoints/last.ckpt", weights_only=True)
    assert "DistillationCallback" in stored["callbacks"]
    assert all(key.startswith("network.") for key in stored["state_dict"])


def test_scores_are_distilled_by_their_squared_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ("fit", "--config=glue/stsb.yaml", *SMALL, *glue(tmp_path))
    rrr(monkeypatch, *fit, "--trainer.default_root_dir=teacher")
    teacher = "--distillation.teachers=teacher/checkpoints/last.ckpt"
    fit = (*fit, teacher, "--distillation.schedule.until=1", "--seed_everything=1")
    with pytest.raises(SystemExit) as end:
        rrr(monkeypatch, *fit, "--trainer.default_root_dir=student")
    assert end.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "rrr: error: distillation.loss: a softmax over one class is always 1, so there is nothing "
        "to distil; found [4, 1]; accepted: two classes or more, or LogitMSE"
    )
    assert not Path("student").exists()
    rrr(monkeypatch, *fit, "--trainer.default_root_dir=student", "--distillation.loss=LogitMSE")
    names, rows = read_rows(Path("student/metrics.csv"))
    steps = [row for row in rows if row["train/loss"]]
    assert len(steps) == 2
    assert all(float(row["train/distillation_loss"]) > 0 for row in steps)
    assert "train/agreement" not in names
