"""The one kind of error that a user can cause, and how it reads.

Every message is a single line that says where (the argument or config key), what is wrong, what was
found and what is accepted. The command line prints that line and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the nearest known name, or an empty string.

    >>> did_you_mean("untl", ["until", "start"])
    "; did you mean 'until'?"
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
