from __future__ import annotations

from typing import Any

import yaml

from rrr_lightning.callbacks.ledger import PHASES, Part, add_part, new_ledger
from rrr_lightning.export import model_card
from rrr_lightning.models.student import CHECKPOINT_KEY

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
    part = Part(70, seconds={**dict.fromkeys(PHASES, 0.0), "student_step": 1.5, "other": 0.5})
    ledger = add_part(new_ledger(), part, price=1800.0)
    for where in ({"described": {"ledger": ledger}}, {"callbacks": {"CostLedger": ledger}}):
        cost = yaml.safe_load(card(**where).split("## Cost")[1].split("```yaml")[1][:-4])
        assert (cost["device_hours"], cost["money"], cost["steps"]) == (0.0006, 1.0, 70)
        assert cost["share_of_time"]["student_step"] == 0.75
        assert "energy_joules" not in cost


def test_what_is_not_known_is_said() -> None:
    bare = card(described={"class": "ImageClassifier", "data": None}, callbacks={})
    assert "## Data\n\nNot known." in bare
    assert "## Teachers\n\nNone." in bare
    assert "student.json" in bare
    unnamed = {"DistillationCallback": {"teachers": ["abc"]}}
    assert "- a teacher, SHA-256 `abc`" in card(callbacks=unnamed)
