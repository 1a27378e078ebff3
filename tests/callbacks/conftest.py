"""Targets of the digits, written once, and digits that others have changed since."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rrr_lightning.data.embedded import EmbeddedDigits, StoredImages
from tests.targets.runs import classifier, write

Change = Callable[[StoredImages], None]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten, of two teachers."""
    folder = tmp_path_factory.mktemp("targets")
    write(folder, [classifier(7), classifier(8)], classes=3)
    return folder


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Has the digits changed whenever they are loaded from now on."""
    load = EmbeddedDigits.load

    def register(change: Change) -> None:
        def loaded(data: EmbeddedDigits) -> tuple[StoredImages, StoredImages]:
            training, validation = load(data)
            change(training)
            return training, validation

        monkeypatch.setattr(EmbeddedDigits, "load", loaded)

    return register
