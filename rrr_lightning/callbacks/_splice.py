"""The one hacky file: wrap a module's `training_step`, catch the student's rows, and undo both.

A Lightning callback has no hook that can change the loss, so `StepSplice` shadows `training_step`
with an instance attribute: every strategy looks the method up at call time, inside autocast and
inside its own forward redirection. `RowCapture` reads the output of one named sub-module while it
is open. Where compilation would ignore a forward hook, the capture shadows what the compiler does
look at.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from rrr_lightning.errors import InputError, did_you_mean

_ABSENT = object()
KEY = "distillation.student_logits"


class Shadow:
    """An instance attribute laid over an object's own, remembered so that it can be put back."""

    def __init__(self, owner: object, name: str, value: Any) -> None:
        self._owner, self._name, self._value = owner, name, value
        self._former = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)

    def undo(self) -> None:
        """Puts the former attribute back; safe to call twice."""
        if vars(self._owner).get(self._name) is not self._value:
            return  # somebody laid another attribute over ours: theirs stays
        if self._former is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._former)


class StepSplice:
    """Puts `around(inner, *args, **kwargs)` in the place of `module.training_step` until `remove`.

    The former attribute comes back exactly: a compiled step that Lightning stored on the instance
    as well as the plain method of the class. A wrapper that somebody else wrapped in turn cannot be
    taken out, but calls the inner step unchanged from then on.
    """

    def __init__(self, module: LightningModule, around: Callable[..., Any]) -> None:
        inner = module.training_step
        self._removed = False

        @functools.wraps(inner)
        def training_step(*args: Any, **kwargs: Any) -> Any:
            if self._removed:
                return inner(*args, **kwargs)
            return around(inner, *args, **kwargs)

        # Lightning follows one `__wrapped__` to see whether to pass `batch_idx`; a compiled step is
        # a wrapper itself, so point at the innermost function.
        training_step.__wrapped__ = inspect.unwrap(inner)
        self._shadow = Shadow(module, "training_step", training_step)

    def remove(self) -> None:
        """Restores the module's own step; safe to call twice."""
        self._removed = True
        self._shadow.undo()


class RowCapture:
    """Catches the output of the sub-module `name` of `module` between `open` and `close`.

    Raises:
        InputError: From the constructor for an unknown name; from `close` when the sub-module did
            not run exactly once.
    """

    def __init__(self, module: LightningModule, name: str) -> None:
        known = dict(module.named_modules())
        if not name or name not in known:
            names = [key for key in known if key]
            raise InputError(
                f"the module has no sub-module of this name{did_you_mean(name, names)}",
                key=KEY,
                found=name,
                accepted=_some(names),
            )
        self._name = name
        self.whose = f"the sub-module {name!r}"
        self._caught: list[Any] = []
        self._is_open = False
        self._undo = self._attach(module, known[name])

    def _attach(self, module: LightningModule, target: nn.Module) -> Callable[[], None]:
        if _inside_compiled(module, self._name):
            return Shadow(target, "forward", self._wrap(target.forward)).undo
        if target._compiled_call_impl is not None:
            compiled = self._wrap(target._compiled_call_impl)
            return Shadow(target, "_compiled_call_impl", compiled).undo
        return target.register_forward_hook(self._hook).remove

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def forward(*args: Any, **kwargs: Any) -> Any:
            output = function(*args, **kwargs)
            if self._is_open:
                self._caught.append(output)
            return output

        return forward

    def _hook(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self._is_open:
            self._caught.append(output)

    def open(self) -> None:
        """Starts to catch."""
        self._caught.clear()
        self._is_open = True

    def abandon(self) -> None:
        """Stops to catch and forgets what was caught."""
        self._is_open = False
        self._caught.clear()

    def close(self) -> Any:
        """Stops to catch and returns the output of the sub-module, with its graph."""
        caught = list(self._caught)
        self.abandon()
        if len(caught) != 1:
            times = "never" if not caught else f"{len(caught)} times"
            raise InputError(
                f"{self.whose} ran {times} in one training step",
                key=KEY,
                accepted="a sub-module that runs exactly once, with rows of the whole batch",
            )
        return caught[0]

    def remove(self) -> None:
        """Leaves the sub-module as it was; safe to call twice."""
        self.abandon()
        self._undo()


def _inside_compiled(module: LightningModule, name: str) -> bool:
    """Whether a forward hook on the sub-module would be hidden inside an already compiled graph."""
    if module._compiler_ctx is not None:
        return True
    parts = name.split(".")
    ancestors = [module.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
    return any(
        isinstance(ancestor, torch._dynamo.OptimizedModule)
        or ancestor._compiled_call_impl is not None
        for ancestor in ancestors
    )


def _some(names: list[str], most: int = 8) -> str:
    top = [name for name in names if "." not in name] or names
    listed = ", ".join(repr(name) for name in top[:most])
    return listed + (", …" if len(top) > most or len(top) < len(names) else "")
