"""Distillation for cheaper training runs in PyTorch Lightning, and the proof of how much cheaper.

The public names below are imported when they are first used, so that `import rrr_lightning` costs
nothing and a project that embeds one piece pays for that piece alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrr_lightning.errors import InputError as InputError

__version__ = "0.1.0"

_HOME_OF = {
    "InputError": "rrr_lightning.errors",
}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
