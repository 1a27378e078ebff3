"""`rrr export`: a trained student as a folder that others can use.

    rrr export --checkpoint runs/bert/checkpoints/last.ckpt --to exported/bert

A masked-LM student or a text classifier becomes a Hugging Face folder: weights in safetensors,
configuration, tokenizer and a model card. An image student becomes weights in safetensors and
`student.json`, which says how to rebuild the network. Either folder works as a teacher. The folder
appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import ModelCardData
from safetensors.torch import save_file

from rrr_lightning import __version__
from rrr_lightning.distillation.weight_files import add_checksum, read_checkpoint
from rrr_lightning.errors import InputError
from rrr_lightning.files import content_of
from rrr_lightning.models.hugging_face import LEDGER_FILE, quiet
from rrr_lightning.models.loading import (
    STUDENT_FILE,
    WEIGHTS_FILE,
    load_checkpoint,
    stored_ledger,
)
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.masked_rows import input_names, usable_positions
from rrr_lightning.models.student import CHECKPOINT_KEY, StudentModule
from rrr_lightning.models.text_classifier import TextClassifier
from rrr_lightning.tokens import Vocabulary, rebuild_tokenizer

# Students that become Hugging Face folders: their pipeline, and what loads them.
_TEXT = {
    "MaskedLanguageModel": ("fill-mask", "AutoModelForMaskedLM"),
    "TextClassifier": ("text-classification", "AutoModelForSequenceClassification"),
}
DESCRIBED = ("class", "arguments", "schema", "training", "data", "ledger")


def export_checkpoint(checkpoint: str | Path, folder: str | Path) -> Path:
    """Writes the student of a checkpoint to a new folder, and returns the folder."""
    source, target = Path(checkpoint).expanduser(), Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            "exists already",
            key="--to",
            found=str(folder),
            accepted="a new or empty folder",
        )
    module = load_checkpoint(source, "--checkpoint").network
    content = read_checkpoint(source, "--checkpoint")
    ledger = stored_ledger(content)
    with content_of(source, "--checkpoint"):
        described = {**content[CHECKPOINT_KEY], "ledger": ledger}
        student = _as_json({name: described[name] for name in DESCRIBED if name in described})
        texts = {"README.md": model_card(target.name, content)}
        if ledger is not None:
            texts[LEDGER_FILE] = _as_json(ledger)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        if isinstance(module, MaskedLanguageModel):
            network: Any = module.network.network
            _write_hugging_face(network, module.vocabulary_size, module.vocabulary, part)
        elif isinstance(module, TextClassifier):
            known, network = module.vocabulary, module.network
            size = network.config.vocab_size if known is None else known.size
            if module.class_names is not None:
                network.config.id2label = dict(enumerate(module.class_names))
                network.config.label2id = {name: i for i, name in enumerate(module.class_names)}
            _write_hugging_face(network, size, known, part)
        else:
            _write_weights(module, part)  # type: ignore[arg-type]
            texts[STUDENT_FILE] = student
        for name, text in texts.items():
            (part / name).write_text(text)
        for weights in part.glob("*.safetensors"):
            add_checksum(weights)
        mode = (part / "README.md").stat().st_mode  # safetensors writes files for the owner alone
        for file in part.iterdir():
            file.chmod(mode)
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write_hugging_face(network: Any, size: int, known: Vocabulary | None, folder: Path) -> None:
    with quiet():
        if network.config.vocab_size > size:
            # Padding serves training alone.
            network.resize_token_embeddings(size)
        network.save_pretrained(folder)
    if known is None or known.tokenizer_json is None:
        return
    tokenizer = rebuild_tokenizer(known.tokenizer_json, known.special_token_ids)
    taken = input_names(network)
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in taken]
    positions = usable_positions(network)
    if positions is not None:
        tokenizer.model_max_length = positions
    with quiet():
        tokenizer.save_pretrained(folder)


def _write_weights(module: StudentModule, folder: Path) -> None:
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in module.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS_FILE)


def _as_json(values: Any) -> str:
    return json.dumps(values, indent=1) + "\n"


def model_card(name: str, checkpoint: Mapping[str, Any]) -> str:
    """Returns the Markdown of a `README.md`."""
    described = checkpoint[CHECKPOINT_KEY]
    kind = str(described["class"])
    header = ModelCardData(
        library_name="transformers" if kind in _TEXT else "rrr-lightning",
        pipeline_tag=_TEXT[kind][0] if kind in _TEXT else "image-classification",
        tags=["distillation", "rrr-lightning"],
    )
    parts = [
        f"---\n{header.to_yaml()}\n---",
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
