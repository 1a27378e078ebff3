"""The README: what it links to exists, what it runs is shipped, and its code does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)]+)\)", PAGE))
def test_its_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).is_file()


@pytest.mark.parametrize("name", re.findall(r"--config ([\w/]+\.yaml)", PAGE))
def test_its_configurations_are_shipped_or_a_runs_own(name: str) -> None:
    shipped = name.removeprefix("runs/").replace("/config.yaml", ".yaml")
    assert (ROOT / "configs" / shipped).is_file()


@pytest.mark.parametrize("script", re.findall(r"(?:bash|python) (scripts/\S+)", PAGE))
def test_its_scripts_exist(script: str) -> None:
    assert (ROOT / script).is_file()


@pytest.mark.filterwarnings("ignore:.*tensorboardX:UserWarning")  # advice of lightning
def test_its_callback_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[Any] = []
    monkeypatch.setattr(lightning.pytorch.Trainer, "fit", lambda *given: fitted.append(given))
    script = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert script is not None
    exec(script.group(1), {"model": "model", "loader": "loader"})
    trainer, *given = fitted[0]
    assert given == ["model", "loader"]
    assert type(trainer.callbacks[0]).__name__ == "DistillationCallback"


def test_contributing_names_files_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|md))`", page))
    assert len(named) > 12
    homes = (root, root / "rrr_lightning")
    assert not [name for name in named if not any((home / name).exists() for home in homes)]
