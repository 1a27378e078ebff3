"""`rrr`: one table of commands, answered before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from rrr_lightning import __version__
from rrr_lightning.commands import COMMANDS, STUDY_ACTIONS, main, run
from rrr_lightning.distillation.sparse_targets import Kind
from rrr_lightning.glue.protocol import PROTOCOLS

ACCEPTED = "accepted: fit, validate, test, predict, export, glue, study, targets"
HEAVY = ("torch", "lightning", "transformers", "datasets", "jsonargparse", "scipy", "matplotlib")


def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["rrr", *arguments])
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["gleu"], "no such command; found 'gleu'; did you mean 'glue'?"),
        (["fitt", "--config"], "no such command; found 'fitt'; did you mean 'fit'?"),
        (["--config", "a.yaml"], "no such command; found '--config'"),
    ],
)
def test_a_wrong_command_ends_with_one_line(
    arguments: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["rrr", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"rrr: error: {line}; {ACCEPTED}\n"


def test_the_overview_has_a_line_for_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overview = printed(monkeypatch, capsys, "--help")
    for name, command in COMMANDS.items():
        assert f"  {name:10}{command.summary}\n" in overview
    assert printed(monkeypatch, capsys) == printed(monkeypatch, capsys, "-h") == overview
    assert printed(monkeypatch, capsys, "--version") == f"rrr_lightning {__version__}\n"


def test_help_names_what_the_commands_accept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = printed(monkeypatch, capsys, "glue", "--help").replace(",", " ").split()
    assert set(PROTOCOLS) <= set(words)
    assert "{" + ",".join(get_args(Kind)) + "}" in printed(monkeypatch, capsys, "targets", "-h")
    overview = "".join(printed(monkeypatch, capsys, "study", "--help").split())
    assert all(summary.replace(" ", "") in overview for summary in STUDY_ACTIONS.values())


def test_help_and_version_load_nothing_heavy() -> None:
    calls = (
        ["--help"], ["--version"], ["export", "--help"], ["glue", "--help"], ["study", "--help"],
        ["study", "run", "--help"], ["targets", "--help"], ["gleu"], ["glue", "--taks"],
    )  # fmt: skip
    code = (
        "import sys\nfrom rrr_lightning.commands import main\n"
        f"for sys.argv[1:] in {calls!r}:\n"
        "    try: main()\n    except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert end.stdout.splitlines()[-1] == "[]", end.stderr


def test_an_error_of_the_system_is_one_line_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reads() -> None:
        (tmp_path / "none.json").read_text()

    with pytest.raises(SystemExit) as end:
        run(reads)
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line == f"rrr: error: {tmp_path / 'none.json'}: No such file or directory\n"


def test_an_error_that_no_file_explains_keeps_its_traceback() -> None:
    def fails() -> None:
        raise OSError("a socket broke")

    with pytest.raises(OSError, match="a socket broke"):
        run(fails)
