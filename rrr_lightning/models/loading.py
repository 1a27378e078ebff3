"""Rebuilds students from what they said about themselves, in checkpoints and exported folders.

The description names one of this library's classes and holds its arguments in plain types. It is
data from a stranger: only the arguments that a student writes are taken, a class path may lead to
networks of known libraries alone, and nothing is built that has more values than the file.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rrr_lightning.distillation.logits import Normalization, RowSchema
from rrr_lightning.distillation.state_dicts import load_weights
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError, check
from rrr_lightning.files import read_json, sha256_of
from rrr_lightning.models.hugging_face import check_config
from rrr_lightning.models.pretrained import Pretrained, size_limit
from rrr_lightning.models.student import CHECKPOINT_KEY

# In a folder that `rrr export` wrote for an image student, beside its weights.
STUDENT_FILE, WEIGHTS_FILE = "student.json", "model.safetensors"
# Checkpoints name their class; only these are ever built from a file, and only with the arguments
# that describe their architecture.
_CLASSES = {
    "ImageClassifier": (
        "rrr_lightning.models.image_classifier",
        "network num_classes small_images class_names loss mean std channels_last",
    ),
    "MaskedLanguageModel": (
        "rrr_lightning.models.masked_lm",
        "network vocabulary_size pad_vocabulary_to",
    ),
    "TextClassifier": (
        "rrr_lightning.models.text_classifier",
        "body num_classes class_names metrics",
    ),
}


def load_checkpoint(path: Path, key: str) -> Pretrained:
    """Rebuilds the network in a checkpoint of this library; it is a `StudentModule`."""
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
    """Rebuilds the network in a folder that `rrr export` wrote for an image student."""
    path = folder / STUDENT_FILE
    described = read_json(path, key)
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
    class_home, accepted = _CLASSES[kind]
    for name in arguments:
        check(name in accepted.split(), key, name, accepted, f"{path} holds an unknown argument")
    _check_arguments(arguments, key)
    state: Any = content.get("state_dict")
    check(
        isinstance(state, Mapping),
        key,
        str(path),
        "weights under state_dict",
        "holds no state dict",
    )
    tensors = [each for each in state.values() if isinstance(each, torch.Tensor)]
    sizes = [0, *(size for each in tensors for size in each.shape)]
    for name in ("num_classes", "vocabulary_size", "pad_vocabulary_to"):
        size = arguments.get(name)
        within = size is None or (type(size) is int and size <= max(sizes))
        what = f"{path} states another {name} than its weights can have"
        check(within, key, size, f"a whole number of at most {max(sizes)}", what)
    try:
        build = getattr(importlib.import_module(class_home), kind)
        # First without memory, as only then the sizes of what is described are known.
        limits = sum(each.numel() for each in tensors), len(tensors), key
        try:
            with size_limit(*limits):
                build(**arguments)
        except NotImplementedError:  # RegNets compute their sizes from numbers in tensors
            with size_limit(*limits, with_values=True):
                build(**arguments)
        module = build(**arguments)
        load_weights(module, content, key, nest="state_dict")
        module.on_load_checkpoint(content)
    except InputError as error:
        raise InputError(f"{path} cannot be rebuilt ({error})", key=key) from error
    except Exception as error:  # a damaged description fails in many ways
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise InputError(f"{path} cannot be rebuilt ({reason})", key=key) from error
    return Pretrained(module, stored_schema(described), sha256, ledger=stored_ledger(content))


def _check_arguments(arguments: Mapping[str, Any], key: str) -> None:
    """Refuses what would import, fetch or open something: a file must not choose what runs."""
    for name in ("network", "body"):
        value = arguments.get(name)
        # Text is a folder or a hub id to a text model; to an image model it is a known name.
        is_text_model = name == "body" or "vocabulary_size" in arguments
        accepted = "a configuration" if is_text_model else "a name, or {class_path, init_args}"
        kinds = Mapping if is_text_model else (str, Mapping)
        found = type(value).__name__
        what = f"the checkpoint describes its {name} by a value of the wrong type"
        check(name not in arguments or isinstance(value, kinds), key, found, accepted, what)
        if isinstance(value, Mapping) and is_text_model:
            check_config(value, key)
    _refuse_other_classes(arguments, key)


def _refuse_other_classes(described: Any, key: str, depth: int = 0) -> None:
    check(depth < 100, key, None, "fewer than 100 levels", "the description is nested too deeply")
    if isinstance(described, list | tuple):
        for value in described:
            _refuse_other_classes(value, key, depth + 1)
    elif isinstance(described, Mapping):
        for value in described.values():
            _refuse_other_classes(value, key, depth + 1)
        from rrr_lightning.models.image_networks import is_architecture  # imports torchvision

        path = described.get("class_path")
        check(
            path is None or is_architecture(str(path)),
            key,
            path,
            "{model: {class_path, init_args}, checkpoint: FILE}, which imports what you name; a "
            "file itself may name networks of torch, torchvision, timm and transformers",
            "the checkpoint names a class that is not imported for a file",
        )


def stored_ledger(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what the training of a checkpoint, or of an exported folder, says that it cost."""
    described, callbacks = content.get(CHECKPOINT_KEY), content.get("callbacks")
    told = described.get("ledger") if isinstance(described, Mapping) else None
    kept = callbacks.get("CostLedger") if isinstance(callbacks, Mapping) else None
    ledger = told or kept
    return ledger if isinstance(ledger, dict) else None


def stored_schema(described: Mapping[str, Any]) -> RowSchema:
    """Returns what the columns of a described network's rows mean."""
    try:
        stored = described.get("schema") or {}
        labels, statistics = stored.get("labels"), stored.get("normalization")
        special, columns = stored.get("special_token_ids"), stored.get("columns")
        if not all(isinstance(each, str) for each in labels or ()) or isinstance(labels, str):
            raise TypeError("its labels are no texts")
        if not all(
            type(each) in (int, type(None)) for each in (columns, *(special or {}).values())
        ):
            raise TypeError("its numbers are no numbers")
        return RowSchema(
            columns=columns,
            labels=None if labels is None else tuple(labels),
            normalization=statistics and Normalization(statistics["mean"], statistics["std"]),
            special_token_ids=special,
            input_vocabulary=stored.get("input_vocabulary"),
        )
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"the description of the logits is damaged ({error})") from error
