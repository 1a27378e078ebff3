"""Rows: the logits `[N, C]` that student and teacher have in common, one row per target.

Suffixes: B batch, T tokens, V vocabulary, C columns, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rrr_lightning.distillation.losses import kl_divergence
from rrr_lightning.distillation.masked_places import masked_places
from rrr_lightning.distillation.schema import RowSchema
from rrr_lightning.errors import InputError


def as_rows(output: Any, batch: Any, whose: str, key: str) -> Tensor:
    """Returns the rows [N, C] in what a network returned for a batch.

    Logits [B, T, V] for a dict batch with `labels` [B, T] become the rows of the tokens whose label
    is not -100.
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits")
    elif not isinstance(output, Tensor | list) and type(output) is not tuple:
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the output of {whose} holds no logits",
            key=key,
            found=type(output).__name__,
            accepted="a tensor, or a mapping or a named tuple with logits (a bare tuple may start "
            "with the loss)",
        )
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if logits.ndim == 3 and isinstance(labels, Tensor) and labels.shape == logits.shape[:2]:
        logits = logits.flatten(0, 1).index_select(0, masked_places(labels))
    if logits.ndim != 2:
        raise InputError(
            f"the logits of {whose} are not rows",
            key=key,
            found=tuple(logits.shape),
            accepted="two dimensions, rows and columns",
        )
    return logits


def check_rows(rows: Tensor, schema: RowSchema, key: str, finite: bool = False) -> None:
    """Refuses a teacher's rows from which no student can learn.

    A logit of -inf rules a class out; a row must leave at least one.
    """
    if rows.ndim != 2:
        raise InputError(
            "the teacher's logits are not rows",
            key=key,
            found=tuple(rows.shape),
            accepted="two dimensions, rows and columns",
        )
    if schema.columns is not None and rows.shape[1] != schema.columns:
        raise InputError(
            "the teacher's rows have another number of columns (classes or vocabulary) than the "
            "student's",
            key=key,
            found=rows.shape[1],
            accepted=str(schema.columns),
        )
    bad = int((~rows.amax(dim=1).isfinite()).sum())
    if bad:
        raise InputError(
            f"{bad} of {len(rows)} rows of the teacher hold NaN or infinity, or nothing but -inf",
            key=key,
            accepted="finite numbers, or -inf for classes that are ruled out",
        )
    bad = int((rows.amin(dim=1) == -torch.inf).sum()) if finite else 0
    if bad:
        raise InputError(
            f"{bad} of {len(rows)} rows of the teacher hold -inf, which the loss does not take",
            key=key,
            accepted="finite numbers for LogitMSE, the reverse divergence and stored targets; the "
            "forward divergence and SoftCrossEntropy take -inf of a live teacher",
        )


@torch.no_grad()
def compare_rows(rows: Tensor, others: Tensor) -> Tensor:
    """Returns how far two versions of the same rows [N, C] lie apart, as sums over rows.

    Rows of one column are scores, which have no classes: they count as means of normal
    distributions of variance 1, so that their divergence is half the squared difference.
    """
    same = (rows.argmax(dim=1) == others.argmax(dim=1)).sum()
    if rows.shape[1] == 1:
        divergence = (rows.float() - others.float()).square().sum() / 2
    else:
        divergence = kl_divergence(others, rows) * len(rows)
    return torch.stack([same.float(), divergence, divergence.new_tensor(len(rows))])
