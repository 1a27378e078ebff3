"""Configurations as nested mappings: laid over each other, compared, and cut to what matters.

A key with dots, such as `model.init_args.learning_rate`, is short for nested mappings.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rrr_lightning.errors import InputError

Config = dict[str, Any]
# What arms may differ in: how a network learns from its batches. All else is the same in all arms,
# so that runs of one seed share initial weights, data, order, masks and augmentation, and are
# judged alike. An entry also covers everything under it.
FREE = (
    "distillation",
    "optimizer",
    "lr_scheduler",
    "trainer.gradient_clip_val",
    "trainer.gradient_clip_algorithm",
    *(
        f"model.init_args.{name}"
        for name in (
            "learning_rate",
            "lr",
            "momentum",
            "betas",
            "epsilon",
            "weight_decay",
            "decay_vectors",
            "warmup_steps",
            "warmup_fraction",
            "label_smoothing",
            "optimizer",
            "lr_scheduler",
            "compile_network",
            "channels_last",
        )
    ),
)
# What the study sets itself.
OURS = {
    "trainer.max_steps": "durations",
    "trainer.default_root_dir": "--out",
    "seed_everything": "seeds",
}
# What says where a run takes place, not what it computes.
PLACES = (
    "data.init_args.source",
    "data.init_args.cache_dir",
    "data.init_args.num_workers",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
)
_ABSENT = object()


def expand(overlay: Mapping[str, Any]) -> Config:
    """Returns an overlay without dots in its keys.

    >>> expand({"trainer.max_steps": 3, "trainer": {"devices": 1}})
    {'trainer': {'max_steps': 3, 'devices': 1}}
    """
    result: Config = {}
    for key, value in overlay.items():
        inner = expand(value) if isinstance(value, Mapping) else copy.deepcopy(value)
        for part in reversed(str(key).split(".")):
            inner = {part: inner}
        result = lay_over(result, inner)
    return result


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> Config:
    """Returns two configurations, the second over the first.

    Mappings are merged, anything else replaces what was there. A new `class_path` leaves the
    `init_args` of the former class behind.
    """
    result: Config = dict(copy.deepcopy(dict(below)))
    if "class_path" in above and result.get("class_path") != above["class_path"]:
        result.pop("init_args", None)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            result[key] = lay_over(old, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def value_at(config: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Returns what a configuration has at a path with dots."""
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return default
        value = value[part]
    return value


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the paths of a configuration and what is there."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def check_free(overlay: Mapping[str, Any], key: str) -> None:
    """Refuses an overlay that sets what the study sets.

    Raises:
        InputError: It does.
    """
    for path, setter in OURS.items():
        found = value_at(overlay, path, _ABSENT)
        if found is not _ABSENT:
            raise InputError(
                f"{path} is set by {setter} of the study",
                key=f"{key}.{path}",
                found=found,
                accepted="nothing here",
            )


def check_paired(configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses arms whose runs would not be paired: the first configuration is the baseline's.

    Raises:
        InputError: An arm differs from it in something that all have to share.
    """
    (first, baseline), *others = configs.items()
    ours = _shared(baseline)
    for name, config in others:
        theirs = _shared(config)
        for where in sorted({**ours, **theirs}):
            if ours.get(where) == theirs.get(where):
                continue
            raise InputError(
                f"breaks the paired comparison: {first} has {ours.get(where)!r}, and arms share "
                "weights, data, order and augmentation, and are judged alike",
                key=f"arms.{name}.overlay.{where}",
                found=theirs.get(where),
                accepted="the same in all arms, best in the study's own overlay; arms may differ "
                "in distillation, optimizer and compilation",
            )


def _shared(config: Mapping[str, Any]) -> Config:
    """Returns by path what all arms share; a section that is empty is as good as none."""
    return {path: value for path, value in leaves(without(config, FREE)) if value != {}}


def without(config: Mapping[str, Any], paths: Sequence[str]) -> Config:
    """Returns a configuration without some paths."""
    result: Config = copy.deepcopy(dict(config))
    for path in paths:
        *outer, last = path.split(".")
        inner = value_at(result, ".".join(outer)) if outer else result
        if isinstance(inner, dict):
            inner.pop(last, None)
    return result


def digest(content: Any) -> str:
    """Returns the SHA-256 of plain types, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
