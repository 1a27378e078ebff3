"""Overlays: what lies over what, what all arms share, what tells configurations apart."""

from __future__ import annotations

from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.overlays import (
    check_free,
    check_paired,
    digest,
    expand,
    lay_over,
    value_at,
    without,
)


def test_dots_and_mappings_say_the_same() -> None:
    dotted = expand({"a.b.c": 1, "a": {"b": {"d": 2}, "e.f": 3}})
    assert dotted == {"a": {"b": {"c": 1, "d": 2}, "e": {"f": 3}}}


def test_the_upper_one_wins_and_neither_changes() -> None:
    below, above = {"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": None}
    assert lay_over(below, above) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert below == {"a": {"b": 1, "c": [1, 2]}}


def test_another_class_starts_from_its_own_arguments() -> None:
    below = {"loss": {"class_path": "KLDivergence", "init_args": {"temperature": 4.0}}}
    same = lay_over(below, {"loss": {"init_args": {"direction": "reverse"}}})
    assert same["loss"]["init_args"] == {"temperature": 4.0, "direction": "reverse"}
    assert lay_over(below, {"loss": {"class_path": "LogitMSE"}})["loss"] == {
        "class_path": "LogitMSE"
    }


def test_values_are_found_and_left_out_by_path() -> None:
    config = {"a": {"b": {"c": 1}}, "d": 2}
    assert (value_at(config, "a.b.c"), value_at(config, "a.x.c", 7)) == (1, 7)
    assert without(config, ("a.b.c", "d", "no.such")) == {"a": {"b": {}}}
    assert config["d"] == 2


def test_a_digest_knows_no_order() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})


@pytest.mark.parametrize(
    ("overlay", "line"),
    [
        ({"seed_everything": 3}, "arms.x.overlay.seed_everything: seed_everything is set by seeds"),
        ({"trainer": {"max_steps": 3}}, "trainer.max_steps is set by durations of the study"),
    ],
)
def test_what_the_study_sets_is_refused(overlay: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        check_free(overlay, "arms.x.overlay")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data.init_args.global_batch_size", 20),
        ("data.init_args.seed", 3),
        ("data.init_args.transform", "cifar"),
        ("model.init_args.network", "cifar_resnet14"),
        ("model.init_args.seed", 4),
        ("model.init_args.mixup_alpha", 0.2),
        ("model.init_args.initialization", "recipe"),
        ("model.init_args.pretrained", True),
        ("model.init_args.vocabulary_size", 512),
        ("model.init_args.pad_vocabulary_to", 64),
        ("model.init_args.body", "mini"),
        ("model.init_args.mean", [0.5, 0.5, 0.5]),
        ("model.init_args.loss", "binary"),
        ("model.init_args.of_another_module", 0),
        ("trainer.limit_train_batches", 5),
        ("trainer.limit_val_batches", 5),
        ("trainer.accumulate_grad_batches", 2),
        ("trainer.precision", "bf16-mixed"),
        ("ledger", False),
    ],
)
def test_arms_that_would_not_be_paired_are_refused(path: str, value: Any) -> None:
    base = {"data": {"init_args": {"global_batch_size": 40}}, "model": {"class_path": "X"}}
    other = lay_over(base, expand({path: value}))
    with pytest.raises(InputError) as error:
        check_paired({"baseline": base, "distilled": other})
    line = str(error.value)
    assert line.startswith(f"arms.distilled.overlay.{path}: breaks the paired comparison")
    assert f"found {value!r}" in line
    check_paired({"baseline": other, "distilled": other})  # all arms alike is fine


@pytest.mark.parametrize(
    "overlay",
    [
        {"model.init_args.learning_rate": 0.2, "distillation.teachers": "x.ckpt"},
        {"model.init_args.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1}}},
        {"model.init_args.warmup_fraction": 0.1, "model.init_args.warmup_steps": None},
        {"model.init_args": {"compile_network": True, "label_smoothing": 0.1}},
        {"trainer.gradient_clip_val": 1.0},
    ],
)
def test_arms_may_differ_in_how_they_learn(overlay: dict[str, Any]) -> None:
    base = {"model": {"init_args": {"learning_rate": 0.1}}}
    for baseline in (base, {"trainer": {}}):
        check_paired({"baseline": baseline, "distilled": lay_over(baseline, expand(overlay))})
