"""Every argument of every public constructor refuses what is not of its kind, by its name.

The values are made from the *defaults*, not from the annotations that the check reads.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from torch import nn

import rrr_lightning as rrr
from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.errors import InputError

NETWORK = nn.Linear(2, 2)
SMALL = {"vocab_size": 64, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
MAKERS: dict[str, Any] = {
    "DistillationSchedule": rrr.DistillationSchedule,
    "TeacherPool": rrr.TeacherPool,
    "KLDivergence": rrr.KLDivergence,
    "SoftCrossEntropy": rrr.SoftCrossEntropy,
    "LogitMSE": rrr.LogitMSE,
    "DistillationCallback": partial(rrr.DistillationCallback, teachers=[NETWORK]),
    "CostLedger": rrr.CostLedger,
    "KeyedRandomness": rrr.KeyedRandomness,
    "ImageClassifier": partial(rrr.ImageClassifier, network=NETWORK, num_classes=2),
    "MaskedLanguageModel": partial(rrr.MaskedLanguageModel, vocabulary_size=64),
    "TextClassifier": rrr.TextClassifier,
    "EmbeddedDigits": EmbeddedDigits,
    "ImageDataModule": partial(rrr.ImageDataModule, source="images"),
    "TextDataModule": partial(rrr.TextDataModule, source="texts"),
    "GlueDataModule": partial(rrr.GlueDataModule, task="rte"),
}
WRONG: dict[type, list[Any]] = {
    bool: ["no", 2, None, [True]],
    int: ["3", 2.5, True, float("nan"), float("inf"), [1], {}],
    float: ["0.9", True, float("nan"), float("inf"), [0.5], {}],
    str: [3, 2.5, True, ["a"], {"a": 1}, object()],
    tuple: ["ab", 3, [float("nan")] * 3, ["0.5"] * 3, {"a": 1}],
    type(None): [object()],
}
# Arguments that take anything: a tokenizer may be an object of its user's.
ANYTHING = {"tokenizer", "teachers", "network", "body"}


def arguments(maker: Any) -> Iterator[tuple[str, list[Any]]]:
    for name, parameter in inspect.signature(maker).parameters.items():
        known = next((kind for kind in WRONG if isinstance(parameter.default, kind)), None)
        if name not in ANYTHING and known is not None:
            yield name, WRONG[known]


@pytest.mark.parametrize("maker", MAKERS)
def test_a_value_of_another_kind_is_refused(maker: str) -> None:
    taken = []
    for argument, values in arguments(MAKERS[maker]):
        for value in values:
            try:
                MAKERS[maker](**{argument: value})
            except InputError as error:
                if argument in str(error):
                    continue
            taken.append((argument, value))
    assert not taken


@pytest.mark.parametrize(
    ("maker", "argument", "value"),
    [
        ("DistillationCallback", "teachers", [5]),
        ("DistillationCallback", "teachers", {"a.ckpt"}),
        ("DistillationCallback", "teachers", ""),
        ("DistillationCallback", "teachers", [""]),
        ("DistillationCallback", "teachers", 5),
        ("DistillationCallback", "loss", "kl"),
        ("DistillationCallback", "loss", nn.ReLU),
        ("DistillationCallback", "schedule", {}),
        ("DistillationCallback", "schedule", None),
        ("DistillationCallback", "pool", 3),
        ("DistillationCallback", "teacher_inputs", "images"),
        ("DistillationCallback", "teacher_min_accuracy", 1.5),
        ("DistillationCallback", "student_logits", ""),
        ("TeacherPool", "weights", [1.0, float("nan")]),
        ("TeacherPool", "weights", ["1"]),
        ("TeacherPool", "weights", []),
        ("TeacherPool", "seed", -1),
        ("KLDivergence", "temperature", 0),
        ("ImageClassifier", "class_names", ["a", "a"]),
        ("ImageClassifier", "class_names", "ab"),
        ("ImageClassifier", "mean", [0.5, 0.5]),
        ("ImageClassifier", "std", [0.0, 1.0, 1.0]),
        ("ImageClassifier", "std", [-1.0, 1.0, 1.0]),
        ("ImageClassifier", "seed", -1),
        ("ImageClassifier", "seed", 2**64),
        ("ImageClassifier", "network", 5),
        ("ImageClassifier", "network", None),
        ("ImageClassifier", "num_classes", 0),
        ("ImageClassifier", "num_classes", 2**60),
        ("ImageClassifier", "learning_rate", -0.1),
        ("ImageClassifier", "momentum", 1.5),
        ("ImageClassifier", "optimizer", "adam"),
        ("ImageClassifier", "lr_scheduler", 3),
        ("MaskedLanguageModel", "betas", (2.0, 3.0)),
        ("MaskedLanguageModel", "betas", (0.9,)),
        ("MaskedLanguageModel", "epsilon", -1e-6),
        ("MaskedLanguageModel", "seed", -1),
        ("MaskedLanguageModel", "network", 5),
        ("TextClassifier", "dropout", 1.5),
        ("TextClassifier", "metrics", ["no such metric"]),
        ("TextClassifier", "metrics", "accuracy"),
        ("TextClassifier", "body", 5),
        ("EmbeddedDigits", "global_batch_size", 0),
        ("EmbeddedDigits", "num_workers", -1),
        ("EmbeddedDigits", "seed", -1),
        ("ImageDataModule", "tuning_fraction", 1.0),
        ("ImageDataModule", "min_scale", 0.0),
        ("ImageDataModule", "crop_size", 0),
        ("TextDataModule", "mask_probability", 1.5),
        ("TextDataModule", "sequence_length", 0),
        ("TextDataModule", "max_documents", 0),
        ("GlueDataModule", "task", "no such task"),
        ("GlueDataModule", "max_length", 1),
        ("CostLedger", "every_n_seconds", 0),
        ("CostLedger", "price_per_device_hour", -1),
        ("KeyedRandomness", "seed", -1),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(maker: str, argument: str, value: Any) -> None:
    with pytest.raises(InputError, match=argument):
        MAKERS[maker](**{argument: value})
