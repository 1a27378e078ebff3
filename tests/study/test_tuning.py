"""The ranking of a tuning study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrr_lightning.study.points import Point
from rrr_lightning.study.study_file import make_study
from rrr_lightning.study.tuning import write_ranking
from tests.study.studies import content


@pytest.mark.parametrize(("direction", "best"), [("min", "baseline"), ("max", "distilled")])
def test_the_best_comes_first(tmp_path: Path, direction: str, best: str) -> None:
    quality = {"metric": "val/loss", "direction": direction}
    study = make_study(content(durations=[8], purpose="tuning", quality=quality))
    points = [
        Point(arm, 8, seed, value + seed / 100, {"flops": 1.0})
        for arm, value in (("baseline", 0.2), ("distilled", 0.4))
        for seed in (1, 2)
    ]
    text = write_ranking(points[:-1], study, tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    arms = json.loads((tmp_path / "report.json").read_text())["arms"]
    assert arms[0]["name"] == best
    by_name = {arm["name"]: arm for arm in arms}
    assert by_name["baseline"]["quality"] == pytest.approx(0.215)
    assert by_name["distilled"]["n"] == 1
    assert by_name["distilled"]["spread"] is None
    assert "| baseline | 8 | 2 | 0.2150 ± 0.0071 |" in text
    assert "no result, but a choice" in text
