from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.commands import COMMANDS
from rrr_lightning.glue import run as evaluation_module
from rrr_lightning.jobs import Outcome

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate_glue.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_it_is_the_function_of_rrr_glue(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, Any]] = []

    def evaluate(*given: Any, **more: Any) -> tuple[None, Outcome]:
        calls.append((given, more))
        return None, Outcome()

    monkeypatch.setattr(evaluation_module, "evaluate", evaluate)
    options = ("--checkpoint", "a.ckpt", "--out", "out", "--tasks", "rte", "--devices", "cpu:2")
    run(monkeypatch, *options)
    COMMANDS["glue"].run(options)
    by_script, by_command = calls
    assert by_script == by_command


def test_wrong_input_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, "--checkpoint", "a.ckpt", "--out", "out", "--tasks", "rtee")
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rrr: error: --tasks: no task of GLUE; did you mean 'rte'?")
