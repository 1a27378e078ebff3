"""Arguments of small runs of `rrr`, and the fixtures that run them in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., None]
TINY = (
    "--model=ImageClassifier",
    "--model.network=cifar_resnet8",
    "--model.num_classes=10",
    "--model.learning_rate=0.1",
    "--data=EmbeddedDigits",
    "--trainer.accelerator=cpu",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)
FIT = ("fit", *TINY, "--trainer.max_steps=4")


@pytest.fixture
def rrr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs `rrr` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for key in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # left by `seed_everything`
        monkeypatch.setenv(key, "0")

    def run(*arguments: str) -> None:
        from rrr_lightning.cli import main

        monkeypatch.setattr(sys, "argv", ["rrr", *arguments])
        main()

    return run


@pytest.fixture
def refused(rrr: Command, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs `rrr`, which has to end with one line and exit code 2; returns the line."""

    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            rrr(*arguments)
        assert end.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0].removeprefix("rrr: error: ")

    return run
