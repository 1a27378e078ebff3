"""Study files: what is read, and the line that each mistake gets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.config import (
    Arm,
    Headline,
    Quality,
    Study,
    TeacherRuns,
    check_values,
    find_shipped,
    make_study,
    read_study,
)
from tests.study.studies import content, write


def quality(**changes: Any) -> dict[str, Any]:
    return {"quality": content()["quality"] | changes}


def refused(**changes: Any) -> str:
    with pytest.raises(InputError) as error:
        make_study({key: value for key, value in content(**changes).items() if value is not None})
    return str(error.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    study = read_study(write(tmp_path / "s.yaml", contrasts=[["distilled", "baseline"]]))
    assert (study.baseline, study.headline_arm) == ("baseline", "distilled")
    assert study.teachers["longer"].seeds == (901, 902)
    assert study.base == ("quickstart/baseline.yaml",)
    assert study.arms["distilled"].overlay["distillation"]["schedule"] == {"until": 0.5}
    assert study.contrasts == (("distilled", "baseline"),)
    assert study.purpose == "result"


def test_shipped_files_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_shipped("quickstart/baseline.yaml", "base").is_file()
    with pytest.raises(InputError, match=r"did you mean 'study/cifar10.yaml'"):
        read_study("study/cifar1.yaml")
    (tmp_path / "bad.yaml").write_text("arms: [")
    with pytest.raises(InputError, match=r"FILE: bad.yaml is not YAML"):
        read_study("bad.yaml")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": [1]}, "seed: no such key; did you mean 'seeds'?; found [1]"),
        (
            {"arms": {"baseline": {}, "a": {"overlays": {}}}},
            "arms.a.overlays: no such key; did you mean 'overlay'?",
        ),
        ({"quality": {"metric": "x"}}, "quality.direction: is missing"),
        ({"durations": None}, "durations: is missing"),
        ({"durations": [4, 8, "x"]}, "durations[2]: expected `int`, got `str`; found 'x'"),
        ({"durations": [4, 8, 8, 16]}, "durations: names a number twice"),
        ({"seeds": []}, "seeds: expected `array` of length >= 1; found []"),
        ({"arms": {"a-b": {}, "b": {}}}, "arms: is no name; found 'a-b'"),
        ({"arms": {"baseline": {}}, "teachers": None}, "arms: nothing to compare the baseline"),
        ({"arms": {"longer": {}, "b": {}}}, "teachers: is the name of an arm as well"),
        ({"purpose": "demonstrate"}, "purpose: unknown; did you mean 'demonstration'?"),
        (
            {"headline": {"clock": "cpu", "charge": "free"}},
            "headline.clock: unknown; found 'cpu'; accepted: wall, wall_without_data, flops",
        ),
        (
            {"headline": {"clock": "wall", "charge": "free", "arm": "distill"}},
            "headline.arm: unknown; did you mean 'distilled'?",
        ),
        ({"settings_tried": {"x": 3}}, "settings_tried: unknown"),
        ({"contrasts": [["baseline", "distil"]]}, "contrasts: unknown; did you mean 'distilled'?"),
        ({"arms": {}, "teachers": None}, "arms: names no arm"),
        ({"arms": {}, "teachers": None, "purpose": "tuning"}, "arms: names no arm"),
        ({"arms": [1]}, "arms: is no mapping"),
        ({"arms": {"baseline": 5, "b": {}}}, "arms.baseline: is no mapping; found 5"),
        ({"settings_tried": 5}, "settings_tried: expected `object`, got `int`; found 5"),
        (
            {"settings_tried": {"baseline": "many"}},
            "settings_tried: expected `int`, got `str`; found {'baseline': 'many'}",
        ),
        ({"contrasts": 5}, "contrasts: expected `array`, got `int`; found 5"),
        (
            {"contrasts": [["baseline"]]},
            "contrasts[0]: expected `array` of length 2, got 1; found ['baseline']",
        ),
        (
            {"contrasts": ["distilled"]},
            "contrasts[0]: expected `array`, got `str`; found 'distilled'",
        ),
        (
            {"contrasts": [["baseline", "distilled"], ["baseline", "distilled", "b"]]},
            "contrasts[1]: expected `array` of length 2, got 3; found ['baseline', 'dist",
        ),
        ({"contrasts": [["baseline", "baseline"]]}, "contrasts[0]: is no pair"),
        ({"tuning": 3}, "tuning: expected `str | null`, got `int`; found 3"),
        ({"base": []}, "base: expected `array` of length >= 1; found []"),
        ({"amortize_over": 0}, "amortize_over: expected `int` >= 1; found 0"),
        (quality(metric=5), "quality.metric: expected `str`, got `int`; found 5"),
        (quality(target="0.3"), "quality.target: expected `float | null`, got `str`; found '0.3'"),
        (quality(target=True), "quality.target: expected `float | null`, got `bool`; found True"),
        (quality(target=float("nan")), "quality.target: is no number; found nan"),
        (
            quality(target=-1),
            "quality.target: cannot be reached; found -1.0; accepted: losses above",
        ),
        (
            quality(direction="max", target=72),
            "quality.target: cannot be reached; found 72.0; accepted: values below the ceiling 1",
        ),
        (quality(direction="max", target=100.0, ceiling=100), "values below the ceiling 100"),
        (quality(ceiling="1"), "quality.ceiling: expected `float`, got `str`; found '1'"),
        (quality(target=None), "quality.target: is missing: the quality at which costs are"),
        (
            {"quality": {"metric": "glue", "direction": "max", "command": ["rrr"]}},
            "quality: a command that evaluates needs a file and a key as well; found 'command'",
        ),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], line: str) -> None:
    assert line in refused(**changes)


@pytest.mark.parametrize(("durations", "missing"), [([8], "3 more durations"), ([4, 8, 16], "1")])
def test_too_few_durations_say_what_is_missing(durations: list[int], missing: str) -> None:
    line = refused(durations=durations)
    assert line.startswith(f"durations: the baseline's quality-cost curve needs {missing}")
    assert f"found {durations}" in line
    assert "4 or more" in line


def test_the_baseline_needs_the_durations_whatever_the_arms_have() -> None:
    arms = {"baseline": {"durations": [4, 8]}, "b": {}}
    assert "2 more durations" in refused(arms=arms)
    study = make_study(content(arms={"baseline": {}, "b": {"durations": [4]}}))
    assert study.durations_of("b") == (4,)


def test_tuning_needs_one_duration_only() -> None:
    study = make_study(content(durations=[8], purpose="tuning", **quality(target=None)))
    assert study.quality.target is None
    assert study.durations_of("distilled") == (8,)


def test_the_data_of_a_command_are_a_matter_of_the_machine(tmp_path: Path) -> None:
    command = {"command": ["rrr", "glue"], "file": "glue.json", "key": "average"}
    judged = {"metric": "glue", "direction": "max", "target": 80.5, "ceiling": 100, **command}
    name = write(tmp_path / "s.yaml", quality=judged)
    assert read_study(name, "/data/glue").quality.data == "/data/glue"
    with pytest.raises(InputError, match="--quality_data: the quality of this study comes from"):
        read_study(write(tmp_path / "t.yaml"), "/data/glue")


STUDY = make_study(content())


@pytest.mark.parametrize("purpose", ["result", "demonstration", "tuning"])
def test_only_a_result_needs_a_target(purpose: str) -> None:
    study = replace(STUDY, purpose=purpose, quality=replace(STUDY.quality, target=None))
    check_values(replace(STUDY, purpose=purpose))
    if purpose == "result":
        with pytest.raises(InputError, match=r"quality\.target: is missing"):
            check_values(study)
    else:
        check_values(study)


def test_targets_that_runs_can_reach() -> None:
    for direction, target, ceiling in (("min", 3.0, 1.0), ("max", -0.2, 1.0), ("max", 72, 100)):
        told = replace(STUDY.quality, direction=direction, target=target, ceiling=ceiling)
        check_values(replace(STUDY, quality=told))


def test_one_arm_can_be_tuned_but_not_compared() -> None:
    alone = replace(STUDY, arms={"baseline": STUDY.arms["baseline"]})
    check_values(replace(alone, purpose="tuning"))
    with pytest.raises(InputError, match="nothing to compare the baseline with"):
        check_values(alone)


NAMED = Study(
    base=("base.yaml",),
    arms={"plain": Arm(), "taught": Arm(durations=(8,))},
    durations=(4, 8),
    seeds=(1,),
    quality=Quality("val/loss", "min"),
    headline=Headline("flops", "free"),
)


def test_the_first_arm_is_the_baseline_and_the_second_the_headline() -> None:
    assert (NAMED.baseline, NAMED.headline_arm) == ("plain", "taught")
    assert (NAMED.durations_of("plain"), NAMED.durations_of("taught")) == ((4, 8), (8,))


def test_the_names_of_runs() -> None:
    study = replace(NAMED, teachers={"longer": TeacherRuns(60, (901, 902))})
    assert list(study.run_names()) == [
        "longer-901", "longer-902", "plain-4-1", "plain-8-1", "taught-8-1",
    ]  # fmt: skip
