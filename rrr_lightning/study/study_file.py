"""A study file: what is compared with what, over which durations and seeds, and judged how.

base: cifar10/baseline.yaml           # a configuration of `rrr fit`, or several
arms:                                 # the first one is the baseline
  baseline: {}
  distilled:
    overlay: {distillation: {teachers: longer}}
teachers:
  longer: {steps: 4680, seeds: [901]}
durations: [390, 780, 1560, 3120]     # optimizer steps
seeds: [1, 2, 3]
quality: {metric: val/accuracy, direction: max, target: 0.7}
headline: {clock: flops, charge: free}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, replace
from fnmatch import fnmatch
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from rrr_lightning.errors import InputError, did_you_mean
from rrr_lightning.files import read_yaml
from rrr_lightning.study.consistency import check_study
from rrr_lightning.study.overlays import Config, expand
from rrr_lightning.study.settings import Arm, Headline, Quality, Study, TeacherRuns

SHIPPED = Path(__file__).parents[1] / "configs"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
Section = TypeVar("Section")


def find_shipped(name: str, key: str, kind: str = "*") -> Path:
    """Returns the path of a local file, or else of one that the package ships.

    Raises:
        InputError: There is neither.
    """
    for path in (Path(name), SHIPPED / name):
        if path.is_file():
            return path
    shipped = sorted(str(path.relative_to(SHIPPED)) for path in SHIPPED.rglob("*.yaml"))
    shipped = [each for each in shipped if fnmatch(each, kind)]
    raise InputError(
        f"neither a file here nor one that is shipped{did_you_mean(name, shipped)}",
        key=key,
        found=name,
        accepted=f"a file, or one of the {len(shipped)} shipped ones",
    )


def read_study(name: str, quality_data: str | None = None) -> Study:
    """Reads a study file.

    Args:
        name: A file, or the name of a shipped one.
        quality_data: What the command that judges runs judges on, over what the file says.

    Raises:
        InputError: There is none, or something in it is wrong.
    """
    study = make_study(read_yaml(find_shipped(name, "FILE", "study/*"), "FILE"))
    if quality_data is None:
        return study
    if study.quality.command is None:
        raise InputError("the quality of this study comes from its logs", key="--quality_data")
    return replace(study, quality=replace(study.quality, data=quality_data))


def make_study(content: Any) -> Study:
    """Makes a study of the content of a file.

    Raises:
        InputError: Something in it is wrong.
    """
    told = dict(_checked_keys(content, Study, "study file"))
    told["base"] = _texts(told["base"], "base")
    told["arms"] = {
        name: _arm(value, f"arms.{name}") for name, value in _named(told, "arms").items()
    }
    told["teachers"] = {
        name: _teacher(value, f"teachers.{name}")
        for name, value in _named(told, "teachers").items()
    }
    told["durations"] = _numbers(told["durations"], "durations")
    told["seeds"] = _numbers(told["seeds"], "seeds", least=0)
    told["quality"] = _quality(told["quality"])
    told["headline"] = Headline(**_checked_keys(told["headline"], Headline, "headline"))
    told["overlay"] = _overlay(told.get("overlay"), "overlay")
    told["contrasts"] = _pairs(told.get("contrasts"))
    told["settings_tried"] = {
        name: _numbers([count], f"settings_tried.{name}", least=0)[0]
        for name, count in _named(told, "settings_tried").items()
    }
    if told.get("tuning") is not None:
        (told["tuning"],) = _texts([told["tuning"]], "tuning")
    (told["amortize_over"],) = _numbers([told.get("amortize_over", 1)], "amortize_over")
    study = Study(**told)
    check_study(study)
    return study


def _arm(value: Any, key: str) -> Arm:
    told = dict(_checked_keys({} if value is None else value, Arm, key))
    if told.get("durations") is not None:
        told["durations"] = _numbers(told["durations"], f"{key}.durations")
    return Arm(**{**told, "overlay": _overlay(told.get("overlay"), f"{key}.overlay")})


def _teacher(value: Any, key: str) -> TeacherRuns:
    told = dict(_checked_keys(value, TeacherRuns, key))
    (told["steps"],) = _numbers([told["steps"]], f"{key}.steps")
    told["seeds"] = _numbers(told["seeds"], f"{key}.seeds", least=0)
    if told.get("base") is not None:
        told["base"] = _texts(told["base"], f"{key}.base")
    return TeacherRuns(**{**told, "overlay": _overlay(told.get("overlay"), f"{key}.overlay")})


def _quality(value: Any) -> Quality:
    told = dict(_checked_keys(value, Quality, "quality"))
    given = [key for key in ("command", "file", "key") if told.get(key) is not None]
    if given and len(given) < 3:
        raise InputError(
            "a command that judges needs a file and a key as well",
            key="quality",
            found=", ".join(given),
            accepted="all of command, file and key, or none",
        )
    if given:
        told["command"] = _texts(told["command"], "quality.command")
    for key in ("metric", "direction", "file", "key", "data"):
        if told.get(key) is not None:
            (told[key],) = _texts([told[key]], f"quality.{key}")
    for key in ("target", "ceiling"):
        if told.get(key) is not None:
            told[key] = _real(told[key], f"quality.{key}")
    return Quality(**{key: value for key, value in told.items() if value is not None})


def _pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """Returns pairs of two different names."""
    pairs = [] if value is None else value
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise InputError("is no list of pairs", key="contrasts", found=value, accepted="[[a, b]]")
    found = []
    for index, pair in enumerate(pairs):
        names = _texts(pair, f"contrasts[{index}]")
        if len(set(names)) != 2 or len(names) != 2:
            raise InputError(
                "is no pair", key=f"contrasts[{index}]", found=pair, accepted="two different arms"
            )
        found.append((names[0], names[1]))
    return tuple(found)


def _checked_keys(value: Any, kind: type[Section], key: str) -> Mapping[str, Any]:
    """Returns a section if it has the keys of a dataclass, and all that have no default."""
    if not isinstance(value, Mapping):
        # The content of a file that is no study is not repeated: it may be any file.
        found = type(value).__name__ if kind is Study else value
        raise InputError("is no mapping", key=key, found=found, accepted="key: value")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    prefix = "" if kind is Study else f"{key}."
    for name in value:
        if name not in known:
            raise InputError(
                f"no such key{did_you_mean(str(name), known)}",
                key=f"{prefix}{name}",
                found=value[name],
                accepted=", ".join(known),
            )
    for name, each in known.items():
        needed = each.default is MISSING and each.default_factory is MISSING
        if needed and value.get(name) is None:
            raise InputError("is missing", key=f"{prefix}{name}")
    return value


def _named(told: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = {} if told.get(key) is None else told[key]
    if not isinstance(section, Mapping):
        raise InputError("is no mapping of names", key=key, found=section)
    for name in section:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError("is no name", key=key, found=name, accepted="letters, digits, _ and .")
        if key == "teachers" and name in told["arms"]:
            raise InputError("is the name of an arm as well", key=key, found=name)
    return section


def _overlay(value: Any, key: str) -> Config:
    if value is not None and not isinstance(value, Mapping):
        raise InputError("is no mapping", key=key, found=value)
    return expand(value or {})


def _texts(value: Any, key: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not (isinstance(values, Sequence) and values and all(isinstance(v, str) for v in values)):
        raise InputError("is no text or list of texts", key=key, found=value)
    return tuple(values)


def _numbers(value: Any, key: str, least: int = 1) -> tuple[int, ...]:
    """Returns different whole numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise InputError("is no list of numbers", key=key, found=value)
    for each in value:
        if not isinstance(each, int) or isinstance(each, bool) or each < least:
            raise InputError(
                "is no number", key=key, found=each, accepted=f"whole numbers from {least}"
            )
    if len(set(value)) < len(value):
        raise InputError("names a number twice", key=key, found=list(value))
    return tuple(value)


def _real(value: Any, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise InputError("is no number", key=key, found=value)
    return value
