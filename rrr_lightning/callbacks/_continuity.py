"""Whether a checkpoint and the run that goes on from it agree that there are teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.errors import InputError

STATE_KEY = "DistillationCallback"
PREFIX = "schedule."


def is_state_key(key: str) -> bool:
    """Whether a key of a checkpoint's `callbacks` is that of a distillation callback."""
    return key.partition("/")[0] == STATE_KEY


def check_teachers_are_over(checkpoint: Mapping[str, Any], max_steps: int) -> None:
    """Refuses to go on without teachers while the checkpoint's window is still open."""
    for key, state in (checkpoint.get("callbacks") or {}).items():
        if is_state_key(key):
            _check_is_over(state, int(checkpoint["global_step"]), max_steps)


def _check_is_over(state: Mapping[str, Any], step: int, max_steps: int) -> None:
    settings = state["settings"]
    values = {
        name.removeprefix(PREFIX): value
        for name, value in settings.items()
        if name.startswith(PREFIX)
    }
    total = max(state["total_steps"], max_steps)
    if not DistillationSchedule(**values).is_over(step, total):
        raise InputError(
            f"the checkpoint's distillation lasts until {values['until']} of training",
            key="distillation.teachers",
            found=f"none at step {step} of {total}",
            accepted=f"{', '.join(state['names'])} as in the checkpoint, or a new run",
        )


def check_began_with_teachers(
    checkpoint: Mapping[str, Any], allowed: bool, state_key: str = STATE_KEY
) -> None:
    """Refuses teachers in a run whose checkpoint was written without any."""
    if not allowed and checkpoint["global_step"] and state_key not in checkpoint["callbacks"]:
        raise InputError(
            f"the checkpoint's {checkpoint['global_step']} steps were made without teachers",
            key="distillation.teachers",
            accepted="no teachers, a new run, or distillation.allow_teacher_change=true",
        )
