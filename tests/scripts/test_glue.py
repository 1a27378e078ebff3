"""The pretrained student against random weights: the interval over seeds alone."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from rrr_lightning.jobs.process import write_json
from tests.scripts.loading import load_script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("results/glue.py", monkeypatch)


def test_seeds_are_paired_and_tasks_averaged(script: ModuleType, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = random.random((2, 2, 5))  # [arm, task, seed]
    for arm, name in enumerate(("random", "pretrained")):
        tasks = {
            task: {"scores": {str(seed): scores[arm, place, seed] for seed in range(5)}}
            for place, task in enumerate(("cola", "rte"))
        }
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "glue.json", {"tasks": tasks})
    found = script.over_seeds(tmp_path / "random", tmp_path / "pretrained")
    differences = (scores[1] - scores[0]).mean(axis=0)
    assert list(found["by_seed"].values()) == pytest.approx(list(differences))
    test = ttest_1samp(differences, 0.0)
    assert found["difference"] == pytest.approx(differences.mean())
    assert found["difference"] / found["standard_error"] == pytest.approx(test.statistic)
    interval = test.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))
