"""The one kind of error that a user can cause, and how it reads.

Every message is a single line that says where (the argument or config key), what is wrong, what was
found and what is accepted. The command line prints that line and exits with status 2.
"""

from __future__ import annotations

import collections.abc
import difflib
import math
import types
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from numbers import Integral, Real
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """Bad input: stops the run before anything is lost or half-written.

    Args:
        what: What is wrong, without a full stop.
        key: The argument or config key to change, for example `distillation.schedule.until`.
        found: The value that was found; shown with `repr` unless it is text made for the message.
        accepted: The values that are accepted, as text.

    >>> str(InputError("out of range", key="until", found=1.5, accepted="a number in (0, 1]"))
    'until: out of range; found 1.5; accepted: a number in (0, 1]'
    """

    def __init__(
        self,
        what: str,
        *,
        key: str | None = None,
        found: object = None,
        accepted: str | None = None,
    ) -> None:
        line = f"{key}: {what}" if key else what
        if found is not None:
            line += f"; found {found!r}"
        if accepted is not None:
            line += f"; accepted: {accepted}"
        super().__init__(" ".join(line.split()))


def refuse(key: str | None, found: object, accepted: str | None, what: str) -> NoReturn:
    """Raises the `InputError` of these parts."""
    raise InputError(what, key=key, found=found, accepted=accepted)


def check(
    ok: bool, key: str | None, found: object, accepted: str, what: str = "out of range"
) -> None:
    """Raises an `InputError` unless `ok`.

    >>> check(0 < 0.5 <= 1, "until", 0.5, "a number in (0, 1]")
    """
    if not ok:
        refuse(key, found, accepted, what)


def check_types(function: Callable[..., Any], values: Mapping[str, Any], section: str = "") -> None:
    """Raises an `InputError` for the first argument that is not of its annotated type.

    Numbers have to be finite, and True and False are no numbers.

    >>> def shuffle(seed: int = 0) -> None: ...
    >>> check_types(shuffle, {"seed": 3})
    """
    for name, hint in get_type_hints(function).items():
        if name not in values or name == "return" or _fits(values[name], hint):
            continue
        value, words = values[name], _words(hint)
        is_word = bool(words) and isinstance(value, str)
        accepted = _describe(hint) + (did_you_mean(value, words) if is_word else "")
        what = "unknown" if is_word else "is of the wrong type"
        refuse(section + name, repr(value) if value is None else value, accepted, what)


def _words(hint: Any) -> list[str]:
    """The words that a type accepts, if it accepts some words alone."""
    if get_origin(hint) is Literal:
        return [each for each in get_args(hint) if isinstance(each, str)]
    return [word for each in get_args(hint) for word in _words(each)]


def _fits(value: object, hint: Any) -> bool:
    """Whether a value is of a type, as far as plain types go."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str | int) and value in inner
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        number = Integral if hint is int else Real
        is_number = isinstance(value, number) and not isinstance(value, bool)
        return is_number and math.isfinite(value)  # type: ignore[arg-type]
    if origin is tuple and Ellipsis not in inner:
        pairs = isinstance(value, list | tuple) and len(value) == len(inner)
        return pairs and all(map(_fits, value, inner))  # type: ignore[call-overload]
    if origin in (list, tuple, Sequence):
        is_list = isinstance(value, Sequence if origin is Sequence else list | tuple)
        is_list = is_list and isinstance(value, Sized) and not isinstance(value, str | bytes)
        return is_list and all(_fits(each, inner[0]) for each in value)  # type: ignore[attr-defined]
    if origin is collections.abc.Callable:
        return callable(value)
    is_class = isinstance(hint, type) and not getattr(hint, "_is_protocol", False)
    return not is_class or isinstance(value, hint)


def _describe(hint: Any) -> str:
    """Names a type for a person: `a whole number, or null`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        named = [_describe(each) for each in inner if each is not type(None)]
        return ", ".join(named) + ", or null" * (type(None) in inner)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in (list, Sequence, tuple):
        return f"a list of {' and '.join(map(_describe, inner))}"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the nearest known name, or an empty string.

    >>> did_you_mean("untl", ["until", "start"])
    "; did you mean 'until'?"
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
