"""What is kept where the user does not say, what is noted of teachers, and sizes in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.callbacks import teacher_loading
from rrr_lightning.distillation.targets import TargetStore
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.errors import InputError
from rrr_lightning.targets.plan import Choice, size_text
from tests.targets.runs import classifier, sure, write


@pytest.mark.parametrize(
    ("given", "columns", "is_text", "expected"),
    [
        ({}, 1000, False, ("top_k", 10)),
        ({}, 10, False, ("dense", 0)),
        ({}, 30522, True, ("sampled", 12)),
        ({"classes": 5}, 10, False, ("top_k", 5)),
        ({"kind": "top_k"}, 30522, True, ("top_k", 12)),
        ({"kind": "dense"}, 1000, False, ("dense", 0)),
        ({"kind": "sampled", "classes": 4}, 100, False, ("sampled", 4)),
    ],
)
def test_what_is_kept(given: Any, columns: int, is_text: bool, expected: Any) -> None:
    encoding = Choice(Path("folder"), **given).encoding(columns, 1.0, is_text)
    assert (encoding.kind, encoding.kept) == expected


@pytest.mark.parametrize(
    ("count", "words"),
    [(12, "12 bytes"), (2048, "2 KiB"), (5.5 * 2**20, "5.5 MiB"), (3 * 2**40, "3 TiB")],
)
def test_sizes_in_words(count: float, words: str) -> None:
    assert size_text(count) == words


@pytest.mark.parametrize(("farthest", "used"), [(1e9, "bfloat16"), (-1.0, "float32")])
def test_the_precision_is_that_which_a_teacher_ended_up_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, farthest: float, used: str
) -> None:
    monkeypatch.setattr(teacher_loading, "computes_in_bf16", lambda device: True)
    monkeypatch.setattr(teacher_loading, "FARTHEST", farthest)
    teachers = [Teacher(sure(7), name="ours"), sure(8)]
    write(tmp_path, teachers, classes=3)
    plan = TargetStore(tmp_path).plan
    assert [teacher["precision"] for teacher in plan.teachers] == [used, "float32 under 32-true"]


@pytest.mark.parametrize("name", ["weights.ckpt", "notes/a.txt", "ledger.json"])
def test_folders_with_other_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "there" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InputError, match=r"^--out: holds other files"):
        write(tmp_path / "there", [classifier(7)])
    assert [each for each in (tmp_path / "there").rglob("*") if each.is_file()] == [path]
