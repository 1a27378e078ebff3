"""The losses that `kernels.py` compares are cut into chunks where their names say so."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.distillation import chunks

FOLDER = Path(__file__).parents[2] / "scripts" / "benchmarks"


class Ticks:
    """A clock for one step."""

    total = 1

    def tick(self) -> None:
        pass


def test_the_arms_are_cut_and_the_references_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec: Any = importlib.util.spec_from_file_location("kernels", FOLDER / "kernels.py")
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kernels", script)
    spec.loader.exec_module(script)
    elements = {**chunks.CHUNK_ELEMENTS, "cuda": chunks.CHUNK_ELEMENTS_ELSEWHERE}
    for device, rows in script.ROWS.items():
        assert rows * script.CLASSES >= 2 * elements[device]
    monkeypatch.setitem(script.ROWS, "cpu", 80)
    calls: list[int] = []
    apply = chunks._Chunked.apply

    def counted(student: Any, targets: Any, loss: Any, rows: int) -> Any:
        calls.append(-(-len(student) // rows))
        return apply(student, targets, loss, rows)

    monkeypatch.setattr(chunks._Chunked, "apply", counted)
    for compared in script.losses("cpu"):
        compared.arm(Ticks())
        (cuts,) = calls
        assert cuts >= 2
        calls.clear()
        compared.reference(Ticks())
        assert not calls
