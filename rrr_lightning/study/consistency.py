"""Whether the parts of a study file go together, so that its runs can be judged."""

from __future__ import annotations

from collections.abc import Iterator

from rrr_lightning.errors import InputError, did_you_mean
from rrr_lightning.study.frontier import LEAST_DURATIONS
from rrr_lightning.study.points import CHARGES, CLOCKS
from rrr_lightning.study.settings import Quality, Study

DIRECTIONS = ("min", "max")
PURPOSES = ("result", "demonstration", "tuning")


def check_study(study: Study) -> None:
    """Refuses values that do not exist, or do not go together.

    Raises:
        InputError: Names what has to change.
    """
    if not study.arms:
        raise InputError("names no arm", key="arms", accepted="two arms or more")
    for key, value, accepted in _choices(study):
        if value not in accepted:
            hint = did_you_mean(str(value), accepted)
            raise InputError(f"unknown{hint}", key=key, found=value, accepted=", ".join(accepted))
    _check_target(study.quality, needed=study.purpose == "result")
    if study.purpose != "tuning":
        _check_comparison(study)


def _choices(study: Study) -> Iterator[tuple[str, object, tuple[str, ...]]]:
    """Yields keys, their values and the values that there are."""
    arms = tuple(study.arms)
    yield "quality.direction", study.quality.direction, DIRECTIONS
    yield "headline.clock", study.headline.clock, CLOCKS
    yield "headline.charge", study.headline.charge, CHARGES
    yield "purpose", study.purpose, PURPOSES
    yield "headline.arm", study.headline_arm, arms
    for arm in study.settings_tried:
        yield "settings_tried", arm, arms
    for pair in study.contrasts:
        for arm in pair:
            yield "contrasts", arm, arms


def _check_target(quality: Quality, needed: bool) -> None:
    """Refuses a target that no run can reach, or that leaves nothing to take a logarithm of."""
    target, is_loss = quality.target, quality.direction == "min"
    if target is None:
        if needed:
            raise InputError(
                "is missing: the quality at which costs are compared is fixed before the runs",
                key="quality.target",
                accepted="a value of quality.metric that baseline and arms will reach",
            )
        return
    if not (target > 0 if is_loss else target < quality.ceiling):
        raise InputError(
            "cannot be reached",
            key="quality.target",
            found=target,
            accepted="losses above 0"
            if is_loss
            else f"values below the ceiling {quality.ceiling:g}",
        )


def _check_comparison(study: Study) -> None:
    """Refuses what only settings could be chosen by."""
    if len(study.arms) < 2:
        raise InputError(
            "nothing to compare the baseline with",
            key="arms",
            found=", ".join(study.arms),
            accepted="two arms or more",
        )
    durations = study.durations_of(study.baseline)
    if len(durations) < LEAST_DURATIONS:
        missing = LEAST_DURATIONS - len(durations)
        raise InputError(
            f"the baseline's frontier needs {missing} more "
            f"{'duration' if missing == 1 else 'durations'}: quality between runs is interpolated",
            key="durations",
            found=list(durations),
            accepted=f"{LEAST_DURATIONS} or more numbers of steps",
        )
