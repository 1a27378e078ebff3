"""The model card of an exported student: what it is, what it was trained on, and by whom."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from rrr_lightning import __version__
from rrr_lightning.models.base import CHECKPOINT_KEY
from rrr_lightning.models.stored import stored_ledger

# Students that become Hugging Face folders: their pipeline, and what loads them.
_TEXT = {
    "MaskedLanguageModel": ("fill-mask", "AutoModelForMaskedLM"),
    "TextClassifier": ("text-classification", "AutoModelForSequenceClassification"),
}


def model_card(name: str, checkpoint: Mapping[str, Any]) -> str:
    """Returns the Markdown of a `README.md`.

    Args:
        name: What to call the model.
        checkpoint: The whole checkpoint, as it was read.
    """
    described = checkpoint[CHECKPOINT_KEY]
    kind = str(described["class"])
    header = {
        "library_name": "transformers" if kind in _TEXT else "rrr-lightning",
        "pipeline_tag": _TEXT[kind][0] if kind in _TEXT else "image-classification",
        "tags": ["distillation", "rrr-lightning"],
    }
    parts = [
        f"---\n{_yaml(header)}---",
        f"# {name}",
        _how_to_load(kind),
        f"## Training\n\n{checkpoint.get('global_step', 0)} optimizer steps with rrr-lightning "
        f"{__version__}.\n\n{_block(described.get('training'))}",
        f"## Data\n\n{_block(described.get('data'))}",
        f"## Teachers\n\n{_teachers(checkpoint)}",
    ]
    ledger = stored_ledger(checkpoint)
    if ledger is not None:
        parts.append(f"## Cost\n\n{_block(_cost(ledger))}")
    return "\n\n".join(parts) + "\n"


def _how_to_load(kind: str) -> str:
    if kind in _TEXT:
        factory = _TEXT[kind][1]
        return (
            f"```python\nfrom transformers import {factory}, AutoTokenizer\n\n"
            f'network = {factory}.from_pretrained(".")\n'
            'tokenizer = AutoTokenizer.from_pretrained(".")\n```'
        )
    return (
        "`student.json` says how to rebuild the network: the class is one of `rrr_lightning`, the "
        "arguments are those of its constructor, and `model.safetensors` holds its state dict.\n\n"
        "```python\nimport json\n\nfrom safetensors.torch import load_file\n\n"
        "from rrr_lightning import ImageClassifier\n\n"
        'student = ImageClassifier(**json.load(open("student.json"))["arguments"])\n'
        'student.load_state_dict(load_file("model.safetensors"))\n```'
    )


def _teachers(checkpoint: Mapping[str, Any]) -> str:
    states = checkpoint.get("callbacks") or {}
    state = next((each for name, each in states.items() if "DistillationCallback" in name), None)
    if state is None:
        return "None."
    names = state.get("names") or ["a teacher"] * len(state["teachers"])
    pairs = zip(names, state["teachers"], strict=True)
    return "\n".join(f"- {name}, SHA-256 `{sha256}`" for name, sha256 in pairs)


def _cost(ledger: Mapping[str, Any]) -> dict[str, Any]:
    """The sums of a ledger that a reader wants; `ledger.json` beside the card has the rest."""
    seconds, flops = ledger["seconds"] or 1.0, ledger["flops"]
    told = {
        "devices": f"{ledger['world_size']} x {(ledger['hardware'] or {}).get('device')}",
        "device_hours": round(ledger["device_seconds"] / 3600, 4),
        "share_of_time": {
            name: round(phase["seconds"] / seconds, 3) for name, phase in ledger["phases"].items()
        },
        "student_flops": flops["student"],
        "teacher_flops": flops["teacher"],
        "energy_joules": ledger["energy_joules"],
        "peak_memory_bytes": ledger["peak_memory_bytes"],
        "steps": ledger["steps"],
        "redone_steps": ledger["redone_steps"],
        "money": ledger["money"],
    }
    return {name: value for name, value in told.items() if value is not None}


def _block(values: Any) -> str:
    return "Not known." if not values else f"```yaml\n{_yaml(values)}```"


def _yaml(values: Any) -> str:
    return str(yaml.safe_dump(_lists(values), sort_keys=False, allow_unicode=True))


def _lists(values: Any) -> Any:
    """Tuples as lists, as YAML knows no tuples."""
    if isinstance(values, Mapping):
        return {name: _lists(value) for name, value in values.items()}
    return [_lists(value) for value in values] if isinstance(values, list | tuple) else values
