"""Plans: teachers before students, paired configurations, references to teachers, fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.config import expand, make_study, merge, value_at
from rrr_lightning.study.plan import (
    PlannedRun,
    check_free,
    check_paired,
    digest,
    make_plan,
    without,
)
from tests.study.studies import content

LESSON = {"distillation": {"schedule": {"until": 0.5}}}


def plan(
    home: Path = Path("/study"), data: str | None = None, **changes: Any
) -> dict[str, PlannedRun]:
    runs = make_plan(make_study(content(**changes)), home, data)
    return {run.name: run for run in runs}


def arms(teachers: Any, **more: Any) -> dict[str, Any]:
    return {"baseline": {}, "distilled": {"overlay": {"distillation": {"teachers": teachers}}}}


def refused(**changes: Any) -> str:
    with pytest.raises(InputError) as error:
        plan(**changes)
    return str(error.value)


def test_every_arm_duration_and_seed_is_a_run_after_its_teachers() -> None:
    runs = plan()
    names = list(runs)
    assert names[0] == "longer-901"  # the other seed has no student
    assert len(names) == 1 + 2 * 4 * 2
    assert runs["distilled-8-2"].teachers == ("longer-901",)
    assert (runs["distilled-8-2"].steps, runs["distilled-8-2"].seed) == (8, 2)
    assert runs["baseline-4-1"].teachers == ()


def test_runs_of_a_seed_differ_in_the_overlay_alone() -> None:
    runs = plan()
    plain, distilled = runs["baseline-8-1"].config, runs["distilled-8-1"].config
    rest = without(distilled, ["distillation", "trainer.default_root_dir"])
    assert rest == without(plain, ["trainer.default_root_dir"])
    assert plain["seed_everything"] == 1
    assert value_at(plain, "trainer.max_steps") == 8
    assert value_at(plain, "model.init_args.warmup_fraction") == 0.2
    assert distilled["distillation"]["teachers"] == ["/study/runs/longer-901/checkpoints/last.ckpt"]
    assert runs["longer-901"].config["model"]["init_args"]["network"] == "cifar_resnet14"


@pytest.mark.parametrize(
    ("teachers", "first", "second"),
    [
        ("longer", ("longer-901", "longer-902"), ("longer-901", "longer-902")),
        ("longer/902", ("longer-902",), ("longer-902",)),
        ("longer/each", ("longer-901",), ("longer-902",)),
        (["longer/902", "old.ckpt"], ("longer-902", "old.ckpt"), ("longer-902", "old.ckpt")),
    ],
)
def test_references_to_teachers(
    teachers: Any, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    runs = plan(arms=arms(teachers))
    assert (runs["distilled-4-1"].pool, runs["distilled-4-2"].pool) == (first, second)


def test_a_teacher_may_have_teachers_but_not_itself() -> None:
    teachers = {
        "old": {"steps": 9, "seeds": [7]},
        "new": {"steps": 9, "seeds": [8], "overlay": {"distillation": {"teachers": "old"}}},
    }
    assert list(plan(teachers=teachers, arms=arms("new")))[:2] == ["old-7", "new-8"]
    teachers["old"]["overlay"] = {"distillation": {"teachers": "new"}}
    line = refused(teachers=teachers, arms=arms("new"))
    assert line == "teachers.new: is its own teacher; found 'new <- old <- new'"


def test_unknown_and_unused_teachers_are_refused() -> None:
    assert refused(arms=arms("longer/9")) == (
        "arms.distilled.distillation.teachers: no such run of the teacher; found 'longer/9'; "
        "accepted: each, 901, 902, or nothing after the name"
    )
    assert "teachers.longer: no arm learns from this teacher" in refused(arms=arms("x.ckpt"))


def test_an_overlay_that_breaks_the_pairs_is_refused() -> None:
    arm = {"overlay": {"data": {"init_args": {"global_batch_size": 20}}}}
    line = refused(arms={**arms("longer"), "other": arm})
    assert line == (
        "arms.other.overlay.data.init_args.global_batch_size: breaks the paired comparison: "
        "baseline has 40, and arms share weights, data, order and augmentation, and are evaluated "
        "alike; found 20; accepted: the same in all arms, best in the study's own overlay; arms "
        "may differ in distillation, optimizer and compilation"
    )
    assert "arms.other.overlay.seed_everything" in refused(
        arms={**arms("longer"), "other": {"overlay": {"seed_everything": 4}}}
    )


def test_a_run_that_would_only_warm_up_is_refused() -> None:
    overlay = {"model.init_args.warmup_steps": 8, "model.init_args.warmup_fraction": None}
    line = refused(overlay=overlay)
    assert "teachers.longer.model" not in line
    assert "arms.baseline.model.init_args.warmup_steps: a run of 4 steps would end" in line


def test_configurations_have_to_be_there(tmp_path: Path) -> None:
    assert "base: neither a file here nor one that is shipped" in refused(base="quickstart/b.yaml")
    (tmp_path / "list.yaml").write_text("[1]")
    assert "base: is no configuration" in refused(base=str(tmp_path / "list.yaml"))


def test_fingerprints_tell_results_apart_and_not_machines() -> None:
    here = plan()
    there = plan(Path("/elsewhere"), data="/mnt/digits")
    assert {name: run.fingerprint for name, run in here.items()} == {
        name: run.fingerprint for name, run in there.items()
    }
    assert len({run.fingerprint for run in here.values()}) == len(here)
    assert "/study" not in str(here["distilled-4-1"].settings)
    longer = {"longer": {**content()["teachers"]["longer"], "steps": 61}}
    changed = plan(teachers=longer)
    differing = {name for name in here if changed[name].fingerprint != here[name].fingerprint}
    assert differing == {name for name in here if name.startswith(("longer", "distilled"))}


def test_dots_and_mappings_say_the_same() -> None:
    dotted = expand({"a.b.c": 1, "a": {"b": {"d": 2}, "e.f": 3}})
    assert dotted == {"a": {"b": {"c": 1, "d": 2}, "e": {"f": 3}}}


def test_the_upper_one_wins_and_neither_changes() -> None:
    below, above = {"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": None}
    assert merge(below, above) == {"a": {"b": 1, "c": [3]}, "d": None}
    assert below == {"a": {"b": 1, "c": [1, 2]}}


def test_another_class_starts_from_its_own_arguments() -> None:
    below = {"loss": {"class_path": "KLDivergence", "init_args": {"temperature": 4.0}}}
    same = merge(below, {"loss": {"init_args": {"direction": "reverse"}}})
    assert same["loss"]["init_args"] == {"temperature": 4.0, "direction": "reverse"}
    assert merge(below, {"loss": {"class_path": "LogitMSE"}})["loss"] == {"class_path": "LogitMSE"}


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
    other = merge(base, expand({path: value}))
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
        check_paired({"baseline": baseline, "distilled": merge(baseline, expand(overlay))})
