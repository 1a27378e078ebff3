"""The rows of one split of a task, checked: every text is text, every label one of the task's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from rrr_lightning.data.glue_tasks import GlueTask
from rrr_lightning.errors import InputError

LOWEST_SCORE, HIGHEST_SCORE = 0.0, 5.0


@dataclass(frozen=True)
class GlueRows:
    """The rows of one split.

    Args:
        texts: One list of texts for each of the task's columns.
        labels: The ids of the classes, or the scores; None for a test split.
        where: What messages call the file or split.
    """

    texts: tuple[list[str], ...]
    labels: list[int] | list[float] | None
    where: str

    def __len__(self) -> int:
        return len(self.texts[0])

    @property
    def sha256(self) -> str:
        """The SHA-256 of texts and labels."""
        return hashlib.sha256(json.dumps([self.texts, self.labels]).encode()).hexdigest()


def check_rows(rows: GlueRows, task: GlueTask) -> GlueRows:
    """Returns the rows as they are."""
    if not len(rows):
        raise InputError(f"{rows.where} holds no rows", key="data.source")
    for column, texts in zip(task.columns, rows.texts, strict=True):
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"{rows.where}, row {number} has no {column}",
                    key="data.source",
                    found=text if text is not None else "none",
                    accepted="a text",
                )
    accepted = ", ".join(map(str, range(len(task.labels))))
    if task.is_regression:
        accepted = f"a score from {LOWEST_SCORE:g} to {HIGHEST_SCORE:g}"
    for number, label in enumerate(rows.labels or ()):
        if not _is_label(label, task):
            raise InputError(
                f"{rows.where}, row {number} has a label that {task.name} does not have",
                key="data.source",
                found="none" if label is None else label,
                accepted=accepted,
            )
    return rows


def _is_label(label: object, task: GlueTask) -> bool:
    if task.is_regression:
        is_number = isinstance(label, int | float) and not isinstance(label, bool)
        return is_number and LOWEST_SCORE <= label <= HIGHEST_SCORE  # type: ignore[operator]
    return isinstance(label, int) and 0 <= label < len(task.labels)
