"""Distillation for cheaper training runs in PyTorch Lightning, and the proof of how much cheaper.

The public names below are imported when they are first used, so that `import rrr_lightning` costs
nothing and a project that embeds one piece pays for that piece alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rrr_lightning.callbacks.cost_ledger import CostLedger as CostLedger
    from rrr_lightning.callbacks.distillation import DistillationCallback as DistillationCallback
    from rrr_lightning.callbacks.randomness import KeyedRandomness as KeyedRandomness
    from rrr_lightning.data.glue import GlueDataModule as GlueDataModule
    from rrr_lightning.data.images import ImageDataModule as ImageDataModule
    from rrr_lightning.data.text import TextDataModule as TextDataModule
    from rrr_lightning.distillation.losses import KLDivergence as KLDivergence
    from rrr_lightning.distillation.losses import LogitMSE as LogitMSE
    from rrr_lightning.distillation.losses import SoftCrossEntropy as SoftCrossEntropy
    from rrr_lightning.distillation.pool import TeacherPool as TeacherPool
    from rrr_lightning.distillation.schedule import DistillationSchedule as DistillationSchedule
    from rrr_lightning.distillation.teacher import Teacher as Teacher
    from rrr_lightning.errors import InputError as InputError
    from rrr_lightning.models.image_classifier import ImageClassifier as ImageClassifier
    from rrr_lightning.models.masked_lm import MaskedLanguageModel as MaskedLanguageModel
    from rrr_lightning.models.text_classifier import TextClassifier as TextClassifier

__version__ = "0.1.0"

_HOME_OF = {
    "CostLedger": "rrr_lightning.callbacks.cost_ledger",
    "DistillationCallback": "rrr_lightning.callbacks.distillation",
    "KeyedRandomness": "rrr_lightning.callbacks.randomness",
    "GlueDataModule": "rrr_lightning.data.glue",
    "ImageDataModule": "rrr_lightning.data.images",
    "TextDataModule": "rrr_lightning.data.text",
    "KLDivergence": "rrr_lightning.distillation.losses",
    "LogitMSE": "rrr_lightning.distillation.losses",
    "SoftCrossEntropy": "rrr_lightning.distillation.losses",
    "TeacherPool": "rrr_lightning.distillation.pool",
    "DistillationSchedule": "rrr_lightning.distillation.schedule",
    "Teacher": "rrr_lightning.distillation.teacher",
    "InputError": "rrr_lightning.errors",
    "ImageClassifier": "rrr_lightning.models.image_classifier",
    "MaskedLanguageModel": "rrr_lightning.models.masked_lm",
    "TextClassifier": "rrr_lightning.models.text_classifier",
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
