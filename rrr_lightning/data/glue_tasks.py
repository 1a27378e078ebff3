"""The nine tasks of GLUE as data: texts, labels, metrics, splits and sizes.

Names of tasks, splits and columns are those of `nyu-mll/glue`; official names and label words are
those of the benchmark's server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rrr_lightning.errors import InputError, did_you_mean

BINARY_WORDS = ("0", "1")


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Args:
        name: The name on the hub, such as `sst2`.
        folder: The official name, such as `SST-2`.
        columns: The columns that hold its texts: one, or two that are judged together.
        labels: The names of the classes in the order of their ids; empty where the label is a score
            to be predicted.
        metrics: The official metrics.
        rows: The official number of rows of every split, in the order train, validation, test.
        earlier_rows: The same of splits that earlier releases had otherwise.
        words: The labels in a submission, in the order of the ids.
    """

    name: str
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: Mapping[str, int]
    words: tuple[str, ...] = BINARY_WORDS
    earlier_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """The splits that are validated on."""
        return tuple(split for split in self.rows if split.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The splits without labels that are predicted for a submission."""
        return tuple(split for split in self.rows if split.startswith("test"))

    def official_rows(self, rows: Mapping[str, int]) -> dict[str, int]:
        """Returns what the numbers of rows of these splits are in the release that they are of."""
        return {
            split: number if self.earlier_rows.get(split) == number else self.rows[split]
            for split, number in rows.items()
        }

    @property
    def is_regression(self) -> bool:
        """Whether the label is a score instead of a class."""
        return not self.labels


def _rows(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


_ENTAILMENT = ("entailment", "not_entailment")
_THREE_WAYS = ("entailment", "neutral", "contradiction")
_SENTENCES = ("sentence1", "sentence2")
_MNLI_ROWS = {
    "train": 392_702,
    "validation_matched": 9_815,
    "validation_mismatched": 9_832,
    "test_matched": 9_796,
    "test_mismatched": 9_847,
}

TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            name="cola",
            folder="CoLA",
            columns=("sentence",),
            labels=("unacceptable", "acceptable"),
            metrics=("matthews",),
            rows=_rows(8_551, 1_043, 1_063),
        ),
        GlueTask(
            name="sst2",
            folder="SST-2",
            columns=("sentence",),
            labels=("negative", "positive"),
            metrics=("accuracy",),
            rows=_rows(67_349, 872, 1_821),
        ),
        GlueTask(
            name="mrpc",
            folder="MRPC",
            columns=_SENTENCES,
            labels=("not_equivalent", "equivalent"),
            metrics=("accuracy", "f1"),
            rows=_rows(3_668, 408, 1_725),
        ),
        GlueTask(
            name="stsb",
            folder="STS-B",
            columns=_SENTENCES,
            labels=(),
            metrics=("pearson", "spearman"),
            rows=_rows(5_749, 1_500, 1_379),
            words=(),
        ),
        GlueTask(
            name="qqp",
            folder="QQP",
            columns=("question1", "question2"),
            labels=("not_duplicate", "duplicate"),
            metrics=("accuracy", "f1"),
            rows=_rows(363_846, 40_430, 390_965),
            # The first release, as the catalogue of TensorFlow Datasets 1.0.0 has counted it.
            earlier_rows={"train": 363_849},
        ),
        GlueTask(
            name="mnli",
            folder="MNLI",
            columns=("premise", "hypothesis"),
            labels=_THREE_WAYS,
            metrics=("accuracy",),
            rows=_MNLI_ROWS,
            words=_THREE_WAYS,
        ),
        GlueTask(
            name="qnli",
            folder="QNLI",
            columns=("question", "sentence"),
            labels=_ENTAILMENT,
            metrics=("accuracy",),
            rows=_rows(104_743, 5_463, 5_463),
            words=_ENTAILMENT,
        ),
        GlueTask(
            name="rte",
            folder="RTE",
            columns=_SENTENCES,
            labels=_ENTAILMENT,
            metrics=("accuracy",),
            rows=_rows(2_490, 277, 3_000),
            words=_ENTAILMENT,
        ),
        GlueTask(
            name="wnli",
            folder="WNLI",
            columns=_SENTENCES,
            labels=("not_entailment", "entailment"),
            metrics=("accuracy",),
            rows=_rows(635, 71, 146),
        ),
    )
}

# The diagnostic set: premises and hypotheses for a network that was fine-tuned on MNLI, without
# labels.
DIAGNOSTIC = GlueTask(
    name="ax",
    folder="AX",
    columns=("premise", "hypothesis"),
    labels=_THREE_WAYS,
    metrics=(),
    rows={"test": 1_104},
    words=_THREE_WAYS,
)
DIAGNOSTIC_SPLIT = "diagnostic"


def find_task(name: str, key: str = "data.task", accepted: Sequence[str] | None = None) -> GlueTask:
    """Returns a task by its name on the hub or its official name, in any case.

    >>> find_task("SST-2").name
    'sst2'
    """
    task = TASKS.get(plain_name(name))
    if task is None:
        names = tuple(TASKS) if accepted is None else accepted
        raise InputError(
            f"no task of GLUE{did_you_mean(plain_name(name), names)}",
            key=key,
            found=name,
            accepted=", ".join(names),
        )
    return task


def plain_name(name: str) -> str:
    """Returns a name as the hub writes it: `STS-B` is `stsb`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
