"""The configurations of GLUE say what the published protocol says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.glue.protocol import PROTOCOLS

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
    assert model["warmup_fraction"] == settings.warmup_fraction
    assert model["body"].startswith("runs/glue/mnli/") == (settings.start == "mnli")
    assert trainer["max_steps"] == settings.steps(task.rows["train"])
    assert trainer["precision"].startswith(settings.precision)
    assert run["seed_everything"] == settings.seeds[0]
