"""`rrr targets`, then `rrr fit` from what it wrote."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rrr_lightning.commands import main
from tests.cli_runs import TINY, Command

RUN = (
    *TINY,
    "--trainer.max_steps=4",
    "--distillation.loss=KLDivergence",
    "--distillation.schedule.until=0.8",
)


@pytest.fixture
def targets(monkeypatch: pytest.MonkeyPatch, rrr: Command) -> Command:
    """Runs `rrr targets` in this process, in the folder of `rrr`."""

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["rrr", "targets", *arguments])
        main()

    return run


def losses(folder: str) -> list[float]:
    with Path(folder, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row["train/loss"]) for row in rows if row.get("train/loss")]


def test_targets_take_the_place_of_a_teacher(
    rrr: Command, targets: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    rrr("fit", *TINY, "--trainer.max_steps=2", "--trainer.default_root_dir=teacher")
    taught = (*RUN, "--distillation.teachers=teacher/checkpoints/last.ckpt")
    capsys.readouterr()
    targets(*taught, "--out=stored")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("4 distilled steps with 40 rows of 22 bytes (dense): 3.7 KiB in")
    assert printed[1].startswith("shard 1 of 1: steps 0 to 3")
    assert sorted(path.name for path in Path("stored").iterdir()) == [
        ".lock",
        "ledger.json",
        "shards",
        "targets.json",
    ]
    assert not Path("runs").exists()
    Path("teacher/checkpoints/last.ckpt").rename("teacher/gone.ckpt")
    rrr("fit", *RUN, "--distillation.targets=stored", "--trainer.default_root_dir=stored-run")
    back = (*RUN, "--distillation.teachers=teacher/gone.ckpt")
    rrr("fit", *back, "--trainer.default_root_dir=live-run")
    assert losses("stored-run") == pytest.approx(losses("live-run"), rel=2e-3)
    ledger = json.loads(Path("stored-run/ledger.json").read_text())
    assert ledger["flops"]["teacher"] == 0
    assert [teacher["name"] for teacher in ledger["teachers"]] == [
        "stored",
        "teacher/checkpoints/last.ckpt",
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((*RUN[:-2],), "distillation.teachers: there is no teacher whose targets could be written"),
        (("--out=x", "--kind=topk"), "argument --kind: invalid choice: 'topk'"),
    ],
)
def test_bad_input_is_one_line(
    targets: Command,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    line: str,
) -> None:
    with pytest.raises(SystemExit) as end:
        targets("--out=stored", *arguments)
    assert end.value.code == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert found.startswith(f"rrr: error: {line}")
    assert not Path("stored").exists()


def test_targets_and_teachers_are_refused(refused: Callable[..., str]) -> None:
    both = ("--distillation.teachers=a.ckpt", "--distillation.targets=stored")
    line = refused("fit", *RUN, *both)
    assert line.startswith("distillation.targets: stored targets take the place of teachers")
