"""The page about studies: its file is a study, its options and studies are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from rrr_lightning.commands import STUDY_ACTIONS
from rrr_lightning.study.config import SHIPPED, make_study
from rrr_lightning.study.plan import make_plan

PAGE = (Path(__file__).parents[2] / "docs" / "study.md").read_text()


def test_its_study_plans(tmp_path: Path) -> None:
    found = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    study = make_study(yaml.safe_load(found.group(1)))
    runs = make_plan(study, tmp_path)
    assert len(runs) == 3 + 3 * (4 + 3)
    assert study.headline_arm == "pool"


def test_its_commands_are_all_commands() -> None:
    assert re.findall(r"^    rrr study (\w+) +FILE --out FOLDER", PAGE, re.MULTILINE) == list(
        STUDY_ACTIONS
    )


@pytest.mark.parametrize("name", re.findall(r"`(study/[\w/]+\.yaml)`", PAGE))
def test_its_studies_are_shipped(name: str) -> None:
    assert (SHIPPED / name).is_file()
    if name.count("/") > 1:
        assert (SHIPPED / name.replace(".yaml", "_small.yaml")).is_file()
