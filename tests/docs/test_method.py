"""The page on the method: its configuration and the settings of its table are accepted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli_runs import FIT

PAGE = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
CELLS = re.findall(r"`((?:loss|schedule\.\w+|pool\.\w+): [^`]+)`", PAGE)
Printed = Callable[..., dict[str, Any]]


@pytest.fixture
def printed(rrr: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> Printed:
    """What the command line makes of a section `distillation`."""

    def parse(*options: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as end:
            rrr(*FIT, *options, "--print_config")
        assert end.value.code == 0
        section: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)["distillation"]
        return section

    return parse


def test_its_configuration_parses(printed: Printed, tmp_path: Path) -> None:
    assert len(BLOCKS) == 1
    (tmp_path / "reference.yaml").write_text(BLOCKS[0])
    section = printed("--config=reference.yaml")
    assert section["loss"]["class_path"].endswith("KLDivergence")
    for name, given in yaml.safe_load(BLOCKS[0])["distillation"].items():
        expected = given["init_args"] if name == "loss" else given
        found = section[name]["init_args"] if name == "loss" else section[name]
        if isinstance(given, dict):
            found = {key: found[key] for key in expected}
        assert found == expected, name


def test_the_settings_of_its_table_parse(printed: Printed) -> None:
    assert len(CELLS) >= 7
    for cell in CELLS:
        key, value = cell.split(": ", maxsplit=1)
        section = printed("--distillation.teachers=a.ckpt", f"--distillation.{key}={value}")
        for name in key.split("."):
            section = section[name]
        given = yaml.safe_load(value)
        if key == "loss":
            assert section["class_path"].endswith(given["class_path"])
            arguments = given.get("init_args", {})
            assert arguments.items() <= section["init_args"].items()
        else:
            assert section == given, cell
