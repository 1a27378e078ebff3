"""Plans: teachers before students, paired configurations, references to teachers, fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.overlays import value_at, without
from rrr_lightning.study.plan import Run, make_plan
from rrr_lightning.study.study_file import make_study
from tests.study.studies import content

LESSON = {"distillation": {"schedule": {"until": 0.5}}}


def plan(home: Path = Path("/study"), data: str | None = None, **changes: Any) -> dict[str, Run]:
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
        "baseline has 40, and arms share weights, data, order and augmentation, and are judged "
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
