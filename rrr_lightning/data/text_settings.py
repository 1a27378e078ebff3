"""Which settings of `TextDataModule` exclude each other, said before anything is read."""

from __future__ import annotations

from typing import Protocol

from rrr_lightning.data.encoding import MODES
from rrr_lightning.data.text_sources import EMBEDDED
from rrr_lightning.errors import InputError, did_you_mean

SHORTEST_SEQUENCE = 8


class TextSettings(Protocol):
    """The settings that are checked, as `TextDataModule` has them."""

    source: str
    sequence_length: int
    exact_masking: bool
    streaming: bool
    max_documents: int | None
    max_val_documents: int | None
    tuning_fraction: float

    @property
    def mode(self) -> str:
        """`truncate` or `pack`."""


def check_settings(data: TextSettings) -> None:
    """Refuses values out of range and settings that exclude each other.

    Raises:
        InputError: The first of them, with its key.
    """
    if data.mode not in MODES:
        what = f"unknown{did_you_mean(data.mode, MODES)}"
        raise InputError(what, key="data.mode", found=data.mode, accepted=", ".join(MODES))
    if data.sequence_length < SHORTEST_SEQUENCE:
        raise InputError(
            "is too short",
            key="data.sequence_length",
            found=data.sequence_length,
            accepted=f"a whole number from {SHORTEST_SEQUENCE}",
        )
    if not 0 <= data.tuning_fraction < 1:
        raise InputError(
            "out of range",
            key="data.tuning_fraction",
            found=data.tuning_fraction,
            accepted="a number in [0, 1)",
        )
    limits = {"max_documents": data.max_documents, "max_val_documents": data.max_val_documents}
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise InputError(
                "must be positive",
                key=f"data.{name}",
                found=limit,
                accepted="a whole number from 1, or null",
            )
    if data.exact_masking and data.mode != "pack":
        raise InputError(
            "needs samples without padding",
            key="data.exact_masking",
            found=True,
            accepted="false, or data.mode: pack",
        )
    if data.streaming:
        _check_stream(data)


def _check_stream(data: TextSettings) -> None:
    for name, value, accepted in (
        ("source", EMBEDDED if data.source == EMBEDDED else None, "files or a hub id"),
        ("mode", "pack" if data.mode == "pack" else None, "truncate"),
        ("max_documents", data.max_documents, "null"),
        ("tuning_fraction", data.tuning_fraction or None, "0.0, and a data.val_split"),
    ):
        if value is not None:
            raise InputError(
                "cannot be used with data.streaming",
                key=f"data.{name}",
                found=value,
                accepted=accepted,
            )
