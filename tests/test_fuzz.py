"""Damaged and hostile files: each reader ends in the right result or in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import NEITHER, fuzz, readers


@pytest.mark.slow
@pytest.mark.parametrize("name", readers())
def test_a_mutated_file_gives_the_right_result_or_one_line(tmp_path: Path, name: str) -> None:
    found = fuzz(name, 40, tmp_path)
    assert [each for _, each in found if each.startswith(NEITHER)] == []
    assert "refused" in {each for _, each in found}
