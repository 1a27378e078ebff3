"""The command on a GPU: where its jobs run, in which precision, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rrr_lightning import commands
from rrr_lightning.files import read_json
from rrr_lightning.jobs.process import MARKER

SETTINGS = "every_task: {max_steps: 4, batch_size: 8, max_length: 32, start: checkpoint}\n"


@pytest.mark.gpu
@pytest.mark.timeout(600)  # two processes that import everything
def test_tasks_are_fine_tuned_on_the_gpu(
    body: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(commands.__file__).parents[1]))
    settings, out = tmp_path / "settings.yaml", tmp_path / "out"
    settings.write_text(SETTINGS)
    options = ("--tasks", "rte,stsb", "--settings", str(settings), "--seeds", "3")
    given = ("--checkpoint", body, "--data", data, "--out", str(out), *options)
    commands.COMMANDS["glue"].run((*given, "--devices", "gpu:0"))
    for task, precision in (("rte", "bf16-mixed"), ("stsb", "32-true")):
        (folder,) = out.glob(f"jobs/{task}-3-*")
        told = read_json(folder / "settings.json")
        assert told["precision"] == precision.partition("-")[0]
        result = read_json(folder / MARKER)["result"]
        assert (result["device"], result["precision"]) == ("cuda", precision)
        assert result["steps"] == 4
    content = json.loads((out / "glue.json").read_text())
    assert set(content["tasks"]) == {"rte", "stsb"}
    assert all(-1 <= task["mean"] <= 1 for task in content["tasks"].values())
