from __future__ import annotations

from typing import Any

import yaml

from rrr_lightning.model_card import model_card
from rrr_lightning.models.base import CHECKPOINT_KEY

DESCRIBED: dict[str, Any] = {
    "class": "MaskedLanguageModel",
    "training": {"learning_rate": 0.01, "betas": (0.9, 0.98)},
    "data": {"class": "TextDataModule", "arguments": {"source": "allenai/c4"}},
}
TEACHERS = {
    "DistillationCallback": {"teachers": ["abc", "def"], "names": ["runs/a.ckpt", "hf:large"]}
}


def card(**changes: Any) -> str:
    described = {**DESCRIBED, **changes.pop("described", {})}
    content = {"global_step": 70, CHECKPOINT_KEY: described, "callbacks": TEACHERS, **changes}
    return model_card("bert", content)


def test_it_tells_data_steps_and_teachers() -> None:
    header = yaml.safe_load(card().split("---")[1])
    assert (header["library_name"], header["pipeline_tag"]) == ("transformers", "fill-mask")
    for said in (
        "# bert\n",
        "\n70 optimizer steps",
        "betas:\n- 0.9\n- 0.98\n",
        "class: TextDataModule\narguments:\n  source: allenai/c4\n",
        "- runs/a.ckpt, SHA-256 `abc`\n- hf:large, SHA-256 `def`",
    ):
        assert said in card()


def test_it_tells_the_cost_where_it_is_known() -> None:
    assert "## Cost" not in card()
    ledger = {"student_seconds": 1.5}
    assert "## Cost\n\n```yaml\nstudent_seconds: 1.5\n" in card(described={"ledger": ledger})


def test_what_is_not_known_is_said() -> None:
    bare = card(described={"class": "ImageClassifier", "data": None}, callbacks={})
    assert "## Data\n\nNot known." in bare
    assert "## Teachers\n\nNone." in bare
    assert "student.json" in bare
    unnamed = {"DistillationCallback": {"teachers": ["abc"]}}
    assert "- a teacher, SHA-256 `abc`" in card(callbacks=unnamed)
