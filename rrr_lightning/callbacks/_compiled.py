"""Counts networks parts of which are compiled, without changing their numbers.

Under PyTorch's counter a compiled network would run eagerly, with other rounding. So it is left to
run as it is; its inputs are noted, and it is counted afterwards on fake tensors of the same shapes,
which cost neither memory nor chance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from rrr_lightning.callbacks._counter import Counter, EagerCounter
from rrr_lightning.callbacks._splice import Shadow


def counter_of(module: nn.Module, backward: bool) -> Counter:
    """Returns what counts the steps of a module.

    Args:
        module: What runs; parts of it may have been compiled in place.
        backward: Whether a backward pass follows every forward pass.
    """
    compiled = list(_compiled_parts(module))
    if not compiled:
        return EagerCounter()
    covered = {id(each) for part in compiled for each in part.parameters()}
    whole = all(id(each) in covered for each in module.parameters())
    replaceable = all(part._compiled_call_impl is not None for part in compiled)
    return _CompiledCounter(compiled if whole and replaceable else [], backward)


def _compiled_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost compiled modules."""
    compiled = module._compiled_call_impl is not None or isinstance(
        module, torch._dynamo.OptimizedModule
    )
    if compiled or getattr(module, "_compiler_ctx", None) is not None:
        yield module
        return
    for child in module.children():
        yield from _compiled_parts(child)


class _CompiledCounter(Counter):
    """Notes how compiled modules are called; nothing can be known where there are none to note."""

    def __init__(self, parts: list[nn.Module], backward: bool) -> None:
        self._parts = parts
        self._backward = backward
        self._calls: list[Callable[[], float]] = []
        self._is_hooked = False
        self._shadows: list[Shadow] = []

    def start(self) -> None:
        for part in self._parts:
            noted = self._note(part, part._compiled_call_impl)
            self._shadows.append(Shadow(part, "_compiled_call_impl", noted))

    def stop(self) -> None:
        while self._shadows:
            self._shadows.pop().undo()

    def flops(self) -> float | None:
        if self._is_hooked or not self._calls:
            return None
        try:
            return sum(call() for call in self._calls)
        except (RuntimeError, TypeError, AttributeError):  # shapes that depend on values, mostly
            return None

    def _note(self, part: nn.Module, call: Any) -> Callable[..., Any]:
        @functools.wraps(call)
        def noted(*args: Any, **kwargs: Any) -> Any:
            device = next((each.device.type for each in part.parameters()), "cpu")
            # What a hook inside does may be over by the time that the call is counted.
            hooks = (
                h for each in part.modules() for h in (each._forward_hooks, each._forward_pre_hooks)
            )
            self._is_hooked |= any(hooks)
            cast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            again = functools.partial(_count_on_fakes, part, args, kwargs, self._backward)
            self._calls.append(functools.partial(_under_autocast, again, device, *cast))
            return call(*args, **kwargs)

        return noted


def _under_autocast(
    count: Callable[[], float], device: str, enabled: bool, dtype: torch.dtype
) -> float:
    with torch.autocast(device, dtype=dtype) if enabled else nullcontext():
        return count()


def _count_on_fakes(part: nn.Module, args: Any, kwargs: dict[str, Any], backward: bool) -> float:
    """Counts a call of a module again, uncompiled, on tensors without content."""
    with (
        torch.compiler.set_stance("force_eager"),
        FakeTensorMode(allow_non_fake_inputs=True) as fake,
        torch.set_grad_enabled(backward),
    ):

        def make_fake(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return fake.from_tensor(value.detach()).requires_grad_(value.requires_grad)

        state = {name: make_fake(each) for name, each in part.named_parameters()}
        state |= {name: make_fake(each) for name, each in part.named_buffers()}
        args, kwargs = tree_map(make_fake, args), tree_map(make_fake, kwargs)
        counter = EagerCounter()
        with counter.running():
            outputs = functional_call(part, state, args, kwargs)
            if backward:
                ends = [each for each in tree_leaves(outputs) if _has_grad(each)]
                wanted = [each for each in tree_leaves((state, args, kwargs)) if _has_grad(each)]
                ones = [torch.ones_like(each) for each in ends]
                torch.autograd.grad(ends, wanted, ones, allow_unused=True)
    return counter.flops() or 0.0


def _has_grad(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
