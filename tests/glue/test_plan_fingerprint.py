"""A checkpoint is told from others by what makes its model and tokenizer, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue.plan import fingerprint


@pytest.mark.parametrize("name", ["none.ckpt", "no/such/folder", "/nowhere/at/all"])
def test_a_checkpoint_that_is_not_there(name: str) -> None:
    with pytest.raises(InputError, match=f"--checkpoint: no such file or folder; found '{name}'"):
        fingerprint(name)


def test_checkpoints_are_told_apart_by_their_content(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.ckpt", tmp_path / "folder"
    file.write_bytes(b"1")
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"1")
    before = fingerprint(str(file)), fingerprint(str(folder))
    assert fingerprint(str(file)) == before[0]
    (folder / "model.safetensors").write_bytes(b"2")
    file.write_bytes(b"2")
    assert fingerprint(str(file)) != before[0]
    assert fingerprint(str(folder)) != before[1]
    assert fingerprint("hub/name") == "hub/name"


def test_what_lies_beside_a_model_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint(str(tmp_path))
    (tmp_path / "README.md").touch()
    (tmp_path / "train.log").touch()
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "plan.json").touch()
    assert fingerprint(str(tmp_path)) == before
    for name in ("model.safetensors", "vocab.txt", "spiece.model", "pytorch_model.bin"):
        (tmp_path / name).write_text(name)
        before, after = fingerprint(str(tmp_path)), before
        assert before != after


def test_the_folder_of_a_run_is_answered_with_its_checkpoint(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    (tmp_path / "ledger.json").touch()
    with pytest.raises(InputError) as refused:
        fingerprint(str(tmp_path))
    assert str(refused.value) == (
        f"--checkpoint: is the folder of a run, and no checkpoint; found '{tmp_path}'; "
        f"accepted: {last}"
    )
    (tmp_path / "config.json").touch()  # a Hugging Face folder that was trained on
    fingerprint(str(tmp_path))
