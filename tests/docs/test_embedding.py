"""The page on embedding is run as it stands, and its promise of at most five lines is counted."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.errors import InputError
from rrr_lightning.models.image_classifier import ImageClassifier

PAGE = Path(__file__).parents[2] / "docs" / "embedding.md"
LIGHTNING = ["lightning.pytorch", "pytorch_lightning"]


def block(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def test_at_most_five_lines_are_added() -> None:
    # the trainer's call is one statement on two lines
    after = block("after").replace("Trainer(\n    ", "Trainer(").replace("]\n)", "])")
    lines = difflib.ndiff(block("before").splitlines(), after.splitlines())
    assert 0 < sum(line.startswith("+ ") and line != "+ " for line in lines) <= 5


@pytest.mark.parametrize("name", ["before", "after"])
@pytest.mark.parametrize("package", LIGHTNING)
def test_the_project_runs(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    teacher = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    torch.save(teacher.state_dict(), "teacher.pt")
    names: dict[str, object] = {}
    exec(block(name).replace("lightning.pytorch", package), names)
    assert "loss" in names["trainer"].callback_metrics  # type: ignore[attr-defined]
    if name == "after":
        state = names["distillation"].state_dict()  # type: ignore[attr-defined]
        assert state["total_steps"] == 5 * 8
        assert len(state["teachers"]) == 1


def test_our_modules_refuse_the_other_package_in_one_line() -> None:
    other = pytest.importorskip("pytorch_lightning")
    boring = pytest.importorskip("pytorch_lightning.demos.boring_classes")
    trainer = other.Trainer(max_steps=1, logger=False, accelerator="cpu")
    with pytest.raises(
        TypeError, match=r"`model` must be a `LightningModule`.*ImageClassifier"
    ) as line:
        trainer.fit(ImageClassifier("cifar_resnet8", 10), EmbeddedDigits())
    assert "\n" not in str(line.value)
    with pytest.raises(InputError, match=r"^trainer: EmbeddedDigits is a data module of lightning"):
        trainer.fit(boring.BoringModel(), datamodule=EmbeddedDigits())
