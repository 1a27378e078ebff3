"""Every shipped study: it parses, plans, and its runs are ones that `rrr fit` understands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rrr_lightning.study.advise import list_runs
from rrr_lightning.study.config import read_study
from rrr_lightning.study.plan import make_plan
from tests.configs.test_all_configs import CONFIGS, rrr

STUDIES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("study/**/*.yaml"))
# The claims of the paper, in its order.
CLAIMS = (
    "resnet50/speed_up",
    "bert/glue",
    "bert/fraction",
    "resnet50/poorest_teacher",
    "bert/poorest_teacher",
    "resnet50/random_teacher",
)


def header(name: str) -> str:
    return re.split(r"^[^#]", (CONFIGS / name).read_text(), maxsplit=1, flags=re.MULTILINE)[0]


def test_every_claim_has_a_study_and_one_in_small() -> None:
    expected = {f"study/{claim}{size}.yaml" for claim in CLAIMS for size in ("", "_small")}
    assert expected <= set(STUDIES)
    assert {"study/quickstart.yaml", "study/cifar10.yaml"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_it_plans(name: str, tmp_path: Path) -> None:
    study = read_study(name)
    runs = make_plan(study, tmp_path)
    listing = list_runs(runs, {})
    assert f"{len(runs)} runs, {len(runs)} of them left" in listing
    assert len({run.fingerprint for run in runs}) == len(runs)
    students = [run for run in runs if run.role == "student"]
    for arm in study.arms:
        own = {(run.steps, run.seed) for run in students if run.arm == arm}
        assert own == {(s, seed) for s in study.durations_of(arm) for seed in study.seeds}
        # A frontier is read where the arm is, so the baseline has to reach as far.
        assert max(study.durations_of(arm)) <= max(study.durations_of(study.baseline))
    seeds = {seed for teacher in study.teachers.values() for seed in teacher.seeds}
    assert not seeds & set(study.seeds), "a teacher shares its initial weights with a student"


@pytest.mark.parametrize("name", STUDIES)
def test_its_runs_are_understood_by_rrr_fit(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = make_plan(read_study(name), tmp_path)
    for run in {run.kind: run for run in runs}.values():
        config = tmp_path / "run.yaml"
        config.write_text(yaml.safe_dump(run.config))
        with pytest.raises(SystemExit) as end:
            rrr(monkeypatch, "fit", f"--config={config}", "--print_config")
        assert end.value.code == 0
        printed: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
        assert printed["trainer"]["max_steps"] == run.steps
        assert printed["seed_everything"] == run.seed


@pytest.mark.parametrize("name", STUDIES)
def test_its_header_says_how_to_run_it(name: str) -> None:
    out = name.removesuffix(".yaml")
    text = " ".join(header(name).replace("#", " ").split())
    assert re.search(rf"rrr study run {name} (--data FOLDER )?--out runs/{out}\b", text)
    assert not re.search(r": /", (CONFIGS / name).read_text()), "names a machine's folder"


@pytest.mark.parametrize("name", [name for name in STUDIES if "_small" in name])
def test_a_study_in_small_says_how_long_it_takes(name: str) -> None:
    text = " ".join(header(name).replace("#", " ").split())
    assert re.search(r"(hours?|minutes) of one (GPU|CPU core)", text)


@pytest.mark.parametrize("name", [name for name in STUDIES if read_study(name).purpose == "result"])
def test_the_question_is_fixed_before_the_runs(name: str) -> None:
    study = read_study(name)
    assert study.headline_arm != study.baseline
    assert study.quality.target is not None
    assert len(study.seeds) >= 2
