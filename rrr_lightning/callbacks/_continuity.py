"""Whether a checkpoint and the run that goes on from it agree that there are teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.errors import InputError

STATE_KEY = "DistillationCallback"
PREFIX = "schedule."


def check_teachers_are_over(checkpoint: Mapping[str, Any], max_steps: int) -> None:
    """Refuses to go on without teachers while the checkpoint's window is still open.

    Args:
        checkpoint: A checkpoint of a training run.
        max_steps: Optimizer steps of the run that goes on.

    Raises:
        InputError: The window is open, or opens again as the run has become longer.
    """
    state = (checkpoint.get("callbacks") or {}).get(STATE_KEY)
    if state is None:
        return
    settings = state["settings"]
    values = {
        name.removeprefix(PREFIX): value
        for name, value in settings.items()
        if name.startswith(PREFIX)
    }
    total = max(state["total_steps"], max_steps)
    if not DistillationSchedule(**values).is_over(int(checkpoint["global_step"]), total):
        raise InputError(
            f"the checkpoint's distillation lasts until {values['until']} of training",
            key="distillation.teachers",
            found=f"none at step {checkpoint['global_step']} of {total}",
            accepted=f"{', '.join(state['names'])} as in the checkpoint, or a new run",
        )


def check_began_with_teachers(checkpoint: Mapping[str, Any], allowed: bool) -> None:
    """Refuses teachers in a run whose checkpoint was written without any.

    Args:
        checkpoint: A checkpoint of a training run.
        allowed: Whether the user allows that the teachers change.

    Raises:
        InputError: The run has made steps without teachers, and that they change is not allowed.
    """
    if not allowed and checkpoint["global_step"] and STATE_KEY not in checkpoint["callbacks"]:
        raise InputError(
            f"the checkpoint's {checkpoint['global_step']} steps were made without teachers",
            key="distillation.teachers",
            accepted="no teachers, a new run, or distillation.allow_teacher_change=true",
        )
