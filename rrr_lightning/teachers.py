"""From a teacher spec to a `Teacher`: what a config or the command line may say, see the docs.

    runs/r50/last.ckpt                              a checkpoint of this library
    torchvision:resnet101?weights=IMAGENET1K_V2     published weights
    torchvision:resnet18?checkpoint=a.pth&num_classes=10
    timm:resnet50.a1_in1k                           if timm is installed
    hf:bert-large-uncased                           a hub id or a local folder
    exported/r50                                    a folder that `rrr export` wrote
    {model: {class_path, init_args}, checkpoint: FILE}
    {checkpoint: any of the above, reorder_classes: true}

Nothing here draws from the student's random stream, and no file is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rrr_lightning.distillation.state_dicts import load_weights
from rrr_lightning.distillation.teacher import Normalization, RowSchema, Teacher
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError, check, did_you_mean
from rrr_lightning.files import sha256_of
from rrr_lightning.models.hugging_face import load_hugging_face
from rrr_lightning.models.loading import (
    STUDENT_FILE,
    load_checkpoint,
    load_exported,
    stored_ledger,
    stored_schema,
)
from rrr_lightning.models.pretrained import Pretrained, load_timm, load_torchvision
from rrr_lightning.models.student import CHECKPOINT_KEY, StudentModule

_ACCEPTED = (
    "a checkpoint file of this library, torchvision:NAME?weights=NAME, timm:NAME, "
    "hf:ID_OR_FOLDER, a Hugging Face folder or an exported one, or "
    "{model: {class_path, init_args}, checkpoint: FILE}"
)
_MAPPING_KEYS = (
    "model",
    "checkpoint",
    "nest",
    "prefix",
    "mean",
    "std",
    "class_names",
    "reorder_classes",
)
_MAY_BE_EMPTY = ("nest", "prefix")
_QUERIES = {
    "torchvision": ("weights", "checkpoint", "num_classes", *_MAY_BE_EMPTY),
    "timm": ("weights", "checkpoint", "num_classes", *_MAY_BE_EMPTY),
    "hf": (),
}


def load_teacher(
    spec: str | Mapping[str, Any] | nn.Module | Teacher,
    *,
    key: str = "distillation.teachers[0]",
    inputs: Callable[[Any], Any] | None = None,
) -> Teacher:
    """Loads a teacher on the CPU; networks given as objects are wrapped and stay their owner's."""
    if isinstance(spec, Teacher):
        return spec
    if isinstance(spec, nn.Module):
        schema = spec.schema() if isinstance(spec, StudentModule) else None
        name = f"{type(spec).__name__} object"
        return Teacher(spec, name=name, schema=schema, inputs=inputs, owned=False, key=key)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        if isinstance(spec, Mapping):
            name, loaded = str(spec.get("checkpoint")), _load_mapping(spec, key)
        elif isinstance(spec, str):
            name, loaded = spec, _load_string(spec, key)
        else:
            raise InputError(
                "no teacher spec", key=key, found=type(spec).__name__, accepted=_ACCEPTED
            )
    return Teacher(
        loaded.network,
        name=name,
        schema=loaded.schema,
        inputs=inputs or loaded.inputs,
        sha256=loaded.sha256,
        ledger=loaded.ledger,
        reorder_classes=isinstance(spec, Mapping) and spec.get("reorder_classes") is True,
        key=key,
    )


def _load_string(spec: str, key: str) -> Pretrained:
    path = Path(spec).expanduser()
    if path.is_file():
        return load_checkpoint(path, key)
    kind, colon, rest = spec.partition(":")
    if colon and kind in _QUERIES:
        name, _, query = rest.partition("?")
        return _load_named(kind, name, query, key)
    if spec and path.is_dir():
        if (path / STUDENT_FILE).is_file():
            return load_exported(path, key)
        return load_hugging_face(str(path), key)
    what = f"unknown kind of teacher{did_you_mean(kind, _QUERIES)}" if colon else "no such file"
    raise InputError(what, key=key, found=spec, accepted=_ACCEPTED)


def _load_named(kind: str, name: str, query: str, key: str) -> Pretrained:
    values: dict[str, str] = {}
    for part in query.split("&") if query else []:
        parameter, _, value = part.partition("=")
        empty = not value and parameter not in _MAY_BE_EMPTY
        if parameter not in _QUERIES[kind] or empty or parameter in values:
            raise InputError(
                f"cannot use this parameter{did_you_mean(parameter, _QUERIES[kind])}",
                key=key,
                found=part,
                accepted=", ".join(f"{each}=…" for each in _QUERIES[kind]) or "none",
            )
        values[parameter] = value
    if kind == "hf":
        return load_hugging_face(name, key)
    return (load_torchvision if kind == "torchvision" else load_timm)(name, values, key)


def _load_mapping(spec: Mapping[str, Any], key: str) -> Pretrained:
    from rrr_lightning.models.image_networks import build_network  # imports torchvision

    for name in spec:
        if name not in _MAPPING_KEYS:
            raise InputError(
                f"unknown key{did_you_mean(str(name), _MAPPING_KEYS)}",
                key=key,
                found=name,
                accepted=", ".join(_MAPPING_KEYS),
            )
    reorder = spec.get("reorder_classes", False)
    check(isinstance(reorder, bool), f"{key}.reorder_classes", reorder, "true or false")
    if "model" not in spec and isinstance(spec.get("checkpoint"), str):
        for name in _MAY_BE_EMPTY:
            check(name not in spec, f"{key}.{name}", spec.get(name), "only beside `model`")
        loaded = _load_string(spec["checkpoint"], key)
        return replace(loaded, schema=_told_schema(spec, loaded.schema, key))
    if not isinstance(spec.get("model"), Mapping) or not isinstance(spec.get("checkpoint"), str):
        raise InputError(
            "a mapping needs a network and its weights",
            key=key,
            found=dict(spec),
            accepted="{model: {class_path, init_args}, checkpoint: FILE}",
        )
    for name in _MAY_BE_EMPTY:
        check(isinstance(spec.get(name, ""), str), f"{key}.{name}", spec.get(name), "a name, or ''")
    path = Path(spec["checkpoint"]).expanduser()
    network = build_network(spec["model"], 0, key=f"{key}.model")
    content = read_checkpoint(path, f"{key}.checkpoint")
    nest, prefix = spec.get("nest"), spec.get("prefix")
    load_weights(network, content, key, nest=nest, prefix=prefix, source=path)
    described = content.get(CHECKPOINT_KEY)
    known = stored_schema(described) if isinstance(described, Mapping) else RowSchema()
    if isinstance(network, StudentModule) and described is None:
        known = network.schema()
    schema, ledger = _told_schema(spec, known, key), stored_ledger(content)
    return Pretrained(network, schema, sha256_of(path), ledger=ledger)


def _told_schema(spec: Mapping[str, Any], known: RowSchema, key: str) -> RowSchema:
    names, mean, std = (spec.get(name) for name in ("class_names", "mean", "std"))
    if names is not None:
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise InputError("is no list of names", key=f"{key}.class_names", found=names)
        known = replace(known, columns=len(names), labels=tuple(names))
    if mean is None and std is None:
        return known
    try:
        return replace(known, normalization=Normalization(tuple(mean or ()), tuple(std or ())))
    except (TypeError, ValueError) as error:
        raise InputError(
            "mean and std are no image statistics",
            key=key,
            found={"mean": mean, "std": std},
            accepted="two lists with one number per channel, std above 0",
        ) from error
