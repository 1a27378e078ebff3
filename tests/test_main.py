"""`rrr` names its commands before anything heavy is loaded."""

from __future__ import annotations

import sys

import pytest

from rrr_lightning.__main__ import main

ACCEPTED = "accepted: fit, validate, test, predict, export, glue, study, targets"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "a command is missing"),
        (["gleu"], "no such command; found 'gleu'; did you mean 'glue'?"),
        (["fitt", "--config"], "no such command; found 'fitt'; did you mean 'fit'?"),
    ],
)
def test_a_wrong_command_ends_with_one_line(
    given: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rrr", *given])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"rrr: error: {line}; {ACCEPTED}\n"


def test_the_help_names_the_commands_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rrr", "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for name in ("fit", "validate", "rrr export", "rrr glue", "rrr study", "rrr targets"):
        assert name in printed
