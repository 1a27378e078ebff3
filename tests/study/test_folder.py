"""The folder of a study: additions are welcome, another study is not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.folder import check, claim
from rrr_lightning.study.study_file import make_study
from tests.study.studies import content


def refused(home: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as error:
        check(make_study(content(**changes)), home)
    return str(error.value)


def test_the_same_study_and_one_that_grows_are_let_in(tmp_path: Path) -> None:
    claim(make_study(content()), tmp_path / "out")
    grown = content(seeds=[1, 2, 3], durations=[4, 8, 16, 32, 64])
    grown["arms"]["third"] = {"overlay": {"distillation": {"teachers": "longer"}}}
    grown["teachers"]["longer"]["seeds"] = [901, 902, 903]
    for told in (content(), grown):
        claim(make_study(told), tmp_path / "out")
    assert "holds another study, whose arms.third differs" in refused(tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"base": "quickstart/distill.yaml"}, "base"),
        ({"seeds": [2, 3]}, "seeds"),
        ({"durations": [4, 8, 16, 64]}, "durations"),
        ({"headline": {"clock": "wall", "charge": "free"}}, "headline"),
        ({"quality": {**content()["quality"], "target": 0.4}}, "quality"),
        ({"overlay": {"trainer.log_every_n_steps": 3}}, "overlay"),
        ({"settings_tried": {"distilled": 1}}, "settings_tried"),
        (
            {"arms": {**content()["arms"], "baseline": {"overlay": {"model.a": 3}}}},
            "arms.baseline.overlay",
        ),
        (
            {"teachers": {"longer": {"steps": 61, "seeds": [901, 902]}}},
            "teachers.longer.steps",
        ),
    ],
)
def test_another_study_is_refused(tmp_path: Path, changes: dict[str, Any], where: str) -> None:
    claim(make_study(content()), tmp_path)
    line = refused(tmp_path, **changes)
    assert line.startswith(f"--out: holds another study, whose {where} differs")
    assert str(tmp_path) in line


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    check(make_study(content()), tmp_path)
    (tmp_path / "thesis.tex").touch()
    assert refused(tmp_path).startswith("--out: holds other files")


def test_records_alone_do_not_say_what_was_fixed_before_them(tmp_path: Path) -> None:
    claim(make_study(content()), tmp_path / "here")
    (tmp_path / "there" / "records").mkdir(parents=True)
    (tmp_path / "there" / "records" / "baseline-4-1.json").touch()
    line = refused(tmp_path / "there")
    assert line.startswith("--out: holds records without the study.json that says what was fixed")
    shutil.copy(tmp_path / "here" / "study.json", tmp_path / "there")
    check(make_study(content()), tmp_path / "there")
    assert "whose headline differs" in refused(
        tmp_path / "there", headline={"clock": "wall", "charge": "free"}
    )


@pytest.mark.parametrize("name", ["baseline-5-1", "distill-4-1", "longer-903", "baseline-4-9"])
def test_records_of_another_study_are_refused(tmp_path: Path, name: str) -> None:
    claim(make_study(content()), tmp_path)
    (tmp_path / "records").mkdir()
    for own in ("baseline-4-1", "longer-902"):
        (tmp_path / "records" / f"{own}.json").touch()
    check(make_study(content()), tmp_path)
    (tmp_path / "records" / f"{name}.json").touch()
    line = refused(tmp_path)
    assert line.startswith("--out: is the record of no run of this study")
    assert f"{name}.json" in line


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    assert "study.json is damaged" in refused(tmp_path)
