"""The scripts on the page about the models are run as they stand."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
import transformers

from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from tests.models.texts import TOKENS

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def script(name: str) -> str:
    found = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_the_script_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(script("own"), names)
    metrics = names["trainer"].callback_metrics  # type: ignore[attr-defined]
    assert metrics["val/accuracy"] > 0.6  # a third by chance
    loaded = ImageClassifier.load_from_checkpoint("classifier.ckpt")
    assert torch.equal(loaded.network.head.weight, names["model"].network.head.weight)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_the_script_with_a_collator_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vocab.txt").write_text("\n".join(TOKENS))
    transformers.BertTokenizerFast("vocab.txt").save_pretrained("my_tokenizer")
    lines = [" ".join(f"w{(start + i) % 20}" for i in range(9)) for start in range(96)]
    Path("lines.txt").write_text("\n".join(lines))
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(script("text"), names)
    metrics = names["trainer"].callback_metrics  # type: ignore[attr-defined]
    assert metrics["val/perplexity"] < 25  # 30 where nothing is learned
    loaded = MaskedLanguageModel.load_from_checkpoint("bert.ckpt")
    assert loaded.vocabulary == names["model"].vocabulary  # type: ignore[attr-defined]
    assert loaded.vocabulary is not None
    assert loaded.vocabulary.tokens == tuple(TOKENS)


@pytest.mark.parametrize("module", [ImageClassifier, MaskedLanguageModel])
def test_the_page_names_every_argument(module: type) -> None:
    page = PAGE.read_text()
    arguments = list(inspect.signature(module.__init__).parameters)[1:]  # type: ignore[misc]
    assert [name for name in arguments if f"`{name}`" not in page] == []
