"""The script on the page about the models is run as it stands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch

from rrr_lightning.models.image_classifier import ImageClassifier

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_the_script_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"<!-- own -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(found.group(1), names)
    metrics = names["trainer"].callback_metrics  # type: ignore[attr-defined]
    assert metrics["val/accuracy"] > 0.6  # a third by chance
    loaded = ImageClassifier.load_from_checkpoint("classifier.ckpt")
    assert torch.equal(loaded.network.head.weight, names["model"].network.head.weight)  # type: ignore[attr-defined]


def test_the_page_names_every_argument() -> None:
    page = PAGE.read_text()
    arguments = list(inspect.signature(ImageClassifier.__init__).parameters)[1:]
    assert [name for name in arguments if f"`{name}`" not in page] == []
