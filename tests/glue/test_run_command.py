"""`rrr glue`: options reach the evaluation, wrong ones end with one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.commands import COMMANDS, run
from rrr_lightning.commands import main as rrr
from rrr_lightning.glue import run as evaluation_module
from rrr_lightning.glue.plan import CHECKPOINTS
from rrr_lightning.jobs import Outcome
from tests.glue.made import evaluation
from tests.glue.tiny import write_body

GIVEN = ("--checkpoint", "a.ckpt", "--out", "out")


def glue(*arguments: str) -> None:
    run(lambda: COMMANDS["glue"].run(arguments))


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the evaluation that the command starts."""
    seen: dict[str, Any] = {"outcome": Outcome()}

    def evaluate(checkpoint: str, data: str, out: str, **more: Any) -> tuple[None, Outcome]:
        seen.update(more, checkpoint=checkpoint, data=data, out=out)
        return None, seen["outcome"]

    monkeypatch.setattr(evaluation_module, "evaluate", evaluate)
    return seen


def test_defaults_and_options(called: dict[str, Any]) -> None:
    glue(*GIVEN)
    assert (called["data"], called["tasks"], called["protocol"]) == (
        "nyu-mll/glue",
        "all",
        "published",
    )
    for name in ("seeds", "slurm", "submission", "micro_batch_size"):
        assert called[name] is None
    options = (
        "--data d --tasks rte --protocol quick --settings s.yaml --seeds 1,2 --devices slurm:2"
    )
    more = "--slurm slurm_partition=long,timeout_min=9 --submission x.zip --compare b "
    more += "--micro_batch_size 4"
    glue(*GIVEN, *options.split(), *more.split())
    assert called["seeds"] == [1, 2]
    assert called["slurm"] == {"slurm_partition": "long", "timeout_min": 9}
    assert (called["settings"], called["submission"]) == ("s.yaml", "x.zip")
    assert (called["compare_with"], called["devices"]) == ("b", "slurm:2")
    assert called["micro_batch_size"] == 4


def test_failed_jobs_make_the_command_fail(called: dict[str, Any]) -> None:
    called["outcome"].skipped["rte-1"] = "not run: needs mnli-1"
    with pytest.raises(SystemExit) as end:
        glue(*GIVEN)
    assert end.value.code == 1


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--seeds", "1,x"), "--seeds: not numbers; found '1,x'; accepted: such as 19,717"),
        (("--slurm", "long"), "--slurm: not name=value pairs; found 'long'"),
        (("--task", "rte"), "--task: no such option; did you mean '--tasks'?"),
    ],
)
def test_wrong_options_end_with_one_line(
    options: tuple[str, ...],
    line: str,
    called: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        glue(*GIVEN, *options)
    assert end.value.code == 2
    assert capsys.readouterr().err == f"rrr: error: {line}\n"


def test_wrong_input_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ckpt").touch()

    def refused(*options: str) -> str:
        monkeypatch.setattr("sys.argv", ["rrr", "glue", *GIVEN, *options])
        with pytest.raises(SystemExit) as end:
            rrr()
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return str(line)

    assert refused("--tasks", "rtee") == (
        "rrr: error: --tasks: no task of GLUE; did you mean 'rte'?; found 'rtee'; accepted: "
        "all, cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli"
    )
    assert "--protocol: no such protocol" in refused("--protocol", "fast")
    assert "--devices: no such device" in refused("--devices", "tpu")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert "--out: holds other files" in refused()


def test_bad_input_ends_with_one_line_and_leaves_nothing(
    body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "settings.yaml").write_text("every_task: {epochs: .inf}")
    write_body(tmp_path / "bare", tokenizer=False)
    evaluation(tmp_path / "out", ("rte",), seeds=(1,))
    capsys.readouterr()  # bars of what was saved

    def refused(checkpoint: str, out: str, *options: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as end:
            glue("--checkpoint", checkpoint, "--out", out, "--devices", "cpu:1", *options)
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert sorted(tmp_path.rglob("*")) == before
        return str(line).removeprefix("rrr: error: ")

    missing = "--checkpoint: no such file or folder; found 'none.ckpt'; accepted: " + CHECKPOINTS
    assert refused("none.ckpt", "out") == refused("none.ckpt", "new") == missing
    file = tmp_path / "file"
    assert refused(body, "file") == f"--out: is a file; found '{file}'; accepted: a folder"
    assert refused(body, "new", "--settings", "settings.yaml") == (
        "--settings every_task.epochs: out of range; found inf; accepted: a number above 0"
    )
    assert refused("bare", "new") == (
        f"--checkpoint: the checkpoint carries no tokenizer; accepted: {CHECKPOINTS}"
    )


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation_module, "evaluate", stopped)
    with pytest.raises(SystemExit) as end:
        glue(*GIVEN)
    assert end.value.code == 130
    assert "the same command resumes" in capsys.readouterr().err
