"""Rebuilds students from what they said about themselves, in checkpoints and exported folders.

The description names one of this library's classes and holds its arguments in plain types. Files
are never unpickled, and a class path in them may lead to networks alone.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from rrr_lightning.distillation.normalization import Normalization
from rrr_lightning.distillation.schema import RowSchema
from rrr_lightning.distillation.state_dicts import load_weights
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError
from rrr_lightning.files import sha256_of
from rrr_lightning.models.base import CHECKPOINT_KEY
from rrr_lightning.models.pretrained import Pretrained

# In a folder that `rrr export` wrote for an image student, beside its weights.
STUDENT_FILE, WEIGHTS_FILE = "student.json", "model.safetensors"
# Checkpoints name their class; only these are ever built from a file.
_CLASSES = {
    "ImageClassifier": "rrr_lightning.models.image_classifier",
    "MaskedLanguageModel": "rrr_lightning.models.masked_lm",
    "TextClassifier": "rrr_lightning.models.text_classifier",
}


def load_checkpoint(path: Path, key: str) -> Pretrained:
    """Rebuilds the network in a checkpoint of this library; it is a `StudentModule`.

    Args:
        path: The file.
        key: The config key for messages.

    Raises:
        InputError: It cannot be read, is no such checkpoint, or its weights do not fit.
    """
    content = read_checkpoint(path, key)
    described = content.get(CHECKPOINT_KEY)
    if not isinstance(described, Mapping) or not isinstance(described.get("arguments"), Mapping):
        raise InputError(
            f"{path} does not say which network its weights belong to",
            key=key,
            accepted="a checkpoint of this library, torchvision:NAME?checkpoint=FILE, or "
            "{model: {class_path, init_args}, checkpoint: FILE}",
        )
    return _rebuild(path, content, sha256_of(path), key)


def load_exported(folder: Path, key: str) -> Pretrained:
    """Rebuilds the network in a folder that `rrr export` wrote for an image student.

    Args:
        folder: The folder, with `student.json` and `model.safetensors`.
        key: The config key for messages.

    Raises:
        InputError: One of the files is missing or damaged, or they do not fit together.
    """
    path = folder / STUDENT_FILE
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error})", key=key) from error
    if not isinstance(described, dict) or not isinstance(described.get("arguments"), dict):
        raise InputError(f"{path} does not say which network it describes", key=key)
    weights = folder / WEIGHTS_FILE
    content = {CHECKPOINT_KEY: described, "state_dict": read_checkpoint(weights, key)}
    return _rebuild(path, content, sha256_of(weights), key)


def _rebuild(path: Path, content: dict[str, Any], sha256: str, key: str) -> Pretrained:
    """The student that a checkpoint describes, with its weights and its names of columns."""
    described = content[CHECKPOINT_KEY]
    kind, arguments = str(described.get("class")), described["arguments"]
    if kind not in _CLASSES:
        raise InputError(
            f"{path} holds a module of an unknown class",
            key=key,
            found=kind,
            accepted=", ".join(_CLASSES),
        )
    if "network" in arguments and arguments["network"] is None:
        raise InputError(
            f"{path} was written by a module around a network object, so it does not say which",
            key=key,
            accepted="{model: {class_path, init_args}, checkpoint: FILE} with the network's class",
        )
    _refuse_other_classes(arguments, key)
    try:
        module = getattr(importlib.import_module(_CLASSES[kind]), kind)(**arguments)
    except (InputError, TypeError) as error:
        raise InputError(f"{path} cannot be rebuilt ({error})", key=key) from error
    load_weights(module, content, key, nest="state_dict")
    module.on_load_checkpoint(content)
    return Pretrained(module, stored_schema(described), sha256, ledger=stored_ledger(content))


def _refuse_other_classes(described: Any, key: str) -> None:
    """Refuses class paths that lead to anything but networks: a file must not choose what runs."""
    if isinstance(described, list | tuple):
        for value in described:
            _refuse_other_classes(value, key)
    elif isinstance(described, Mapping):
        for value in described.values():
            _refuse_other_classes(value, key)
        path = described.get("class_path")
        if path is not None and not _is_network_class(str(path)):
            raise InputError(
                "the checkpoint names a class that is no network",
                key=key,
                found=path,
                accepted="subclasses of torch.nn.Module that can be imported",
            )


def _is_network_class(path: str) -> bool:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, nn.Module)


def stored_ledger(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what the training of a checkpoint, or of an exported folder, says that it cost."""
    told = (content.get(CHECKPOINT_KEY) or {}).get("ledger")
    ledger = told or (content.get("callbacks") or {}).get("CostLedger")
    return ledger if isinstance(ledger, dict) else None


def stored_schema(described: Mapping[str, Any]) -> RowSchema:
    """Returns what the columns of a described network's rows mean."""
    stored = described.get("schema") or {}
    labels, statistics = stored.get("labels"), stored.get("normalization")
    return RowSchema(
        columns=stored.get("columns"),
        labels=None if labels is None else tuple(labels),
        normalization=statistics and Normalization(statistics["mean"], statistics["std"]),
        special_token_ids=stored.get("special_token_ids"),
        input_vocabulary=stored.get("input_vocabulary"),
    )
