"""The one hacky file: wrap a module's `training_step`, catch the student's rows, and undo both.

A Lightning callback has no hook that can change the loss, so `StepSplice` shadows `training_step`
with an instance attribute: every strategy looks the method up at call time, inside autocast and
inside its own forward redirection. `RowCapture` reads the output of one named sub-module, and what
the network around it was called with, while it is open. Where compilation would ignore a forward
hook, the capture shadows what the compiler does look at.

A module may be copied, pickled or scripted at any time. So hooks are there only while a step runs,
and what is shadowed is copied and pickled as the owner's own method: a copy trains itself.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from rrr_lightning.errors import InputError, did_you_mean

_ABSENT = object()
KEY = "distillation.student_logits"

# From a network and the arguments of its call; called before it runs.
OnInput = Callable[[nn.Module, tuple[Any, ...], Mapping[str, Any]], None]


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


class _Method:
    """A function that takes the place of a method; copied and pickled as the method itself."""

    def __init__(self, owner: object, name: str, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.splice: StepSplice | None = None
        self._owner, self._name, self._function = owner, name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # As methods are pickled: the copy of the owner is there already, and has only its own.
        return getattr, (self._owner, self._name)


class _Hook:
    """A forward hook; its copies do nothing."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        return _do_nothing_hook, ()


def _do_nothing(*_: Any) -> None:
    return None


def _do_nothing_hook() -> Callable[..., None]:
    return _do_nothing


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

        method = _Method(module, "training_step", training_step)
        # Lightning follows one `__wrapped__` to see whether to pass `batch_idx`; a compiled step is
        # a wrapper itself, so point at the innermost function.
        method.__wrapped__ = inspect.unwrap(inner)  # type: ignore[attr-defined]
        method.splice = self
        self._module = module
        self._shadow = Shadow(module, "training_step", method)

    def remove(self) -> None:
        """Restores the module's own step; safe to call twice."""
        self._removed = True
        self._shadow.undo()
        below = vars(self._module).get("training_step")
        if isinstance(below, _Method) and below.splice is not None and below.splice._removed:
            below.splice.remove()  # was removed before, while this one lay over it


class RowCapture:
    """Catches the output of the sub-module `name` of `module` between `open` and `close`.

    The network is the outermost sub-module around it that runs; what it is called with is noted.

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
        self.whose = f"the sub-module {name!r}"
        parts = name.split(".")
        self._names = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        self._module = module
        self._caught: list[Any] = []
        self._undo: list[Callable[[], None]] = []
        # Whether the network's call is compiled into a larger graph, where nothing else can run.
        self.is_inside_graph = module._compiler_ctx is not None
        # What the network was called with, where `is_inside_graph`.
        self.calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []

    def open(self, on_input: OnInput | None = None) -> None:
        """Starts to catch."""
        self.abandon()
        waiting = [on_input]

        def before(network: nn.Module, args: Any, kwargs: Any) -> None:
            if waiting and (function := waiting.pop()) is not None:
                function(network, args, kwargs)

        for name in self._names:
            target = self._module.get_submodule(name)
            after = self._caught.append if name == self._names[-1] else None
            if _inside_compiled(self._module, name):
                self._shadow_forward(target, after)
            elif target._compiled_call_impl is not None:
                self._shadow_compiled(target, before, after)
            else:
                self._hook(target, before, after)

    def _hook(
        self, target: nn.Module, before: OnInput, after: Callable[[Any], None] | None
    ) -> None:
        handle = target.register_forward_pre_hook(_Hook(before), with_kwargs=True)
        self._undo.append(handle.remove)
        if after is not None:
            caught = _Hook(lambda _module, _inputs, output: after(output))
            self._undo.append(target.register_forward_hook(caught).remove)

    def _shadow_compiled(
        self, target: nn.Module, before: OnInput, after: Callable[[Any], None] | None
    ) -> None:
        compiled: Any = target._compiled_call_impl

        def call(*args: Any, **kwargs: Any) -> Any:
            before(target, args, kwargs)
            output = compiled(*args, **kwargs)
            if after is not None:
                after(output)
            return output

        self._undo.append(Shadow(target, "_compiled_call_impl", call).undo)

    def _shadow_forward(self, target: nn.Module, after: Callable[[Any], None] | None) -> None:
        function = target.forward
        calls = self.calls if self.is_inside_graph else None
        if calls is None and after is None:
            return  # the network around it is seen from outside

        @functools.wraps(function)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if calls is not None:
                calls.append((target, args, kwargs))
            output = function(*args, **kwargs)
            if after is not None:
                after(output)
            return output

        self._undo.append(Shadow(target, "forward", forward).undo)

    def abandon(self) -> None:
        """Stops to catch, forgets what was caught, and leaves the sub-modules as they were."""
        while self._undo:
            self._undo.pop()()
        self._caught.clear()
        self.calls.clear()

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


class FirstCall:
    """Notes what the first sub-module with parameters that runs is called with, while it is open.

    Sub-modules inside a compiled graph are not seen.
    """

    def __init__(self, module: LightningModule) -> None:
        self.call: tuple[nn.Module, tuple[Any, ...], Mapping[str, Any]] | None = None
        self._handles = [
            part.register_forward_pre_hook(_Hook(self._note), with_kwargs=True)
            for name, part in module.named_modules()
            if name and any(True for _ in part.parameters())
            if part._compiled_call_impl is None and not _inside_compiled(module, name)
        ]

    def _note(self, network: nn.Module, args: Any, kwargs: Any) -> None:
        if self.call is None:
            self.call = network, args, kwargs

    def close(self) -> None:
        """Leaves the module as it was."""
        for handle in self._handles:
            handle.remove()


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
