"""What tells one checkpoint from another: the content of what makes its model and its tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from rrr_lightning.errors import InputError
from rrr_lightning.files import sha256_of
from rrr_lightning.models.vocabulary import HUB_ID

CHECKPOINTS = (
    "a checkpoint of a text model of this library, a Hugging Face folder with its tokenizer, or a "
    "hub id"
)
WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")  # files, and no names on the hub
PARTS = (".json", ".safetensors", ".bin", ".txt", ".model")  # of a Hugging Face folder


def fingerprint(checkpoint: str) -> str:
    """Returns what tells a checkpoint from others: a hash of its content, or a hub id.

    Of a folder, the files count that make the model and the tokenizer: what else is written into
    it, or below it, changes nothing.

    Raises:
        InputError: There is no such file or folder, and it is no hub id, or it is a run's folder.
    """
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return sha256_of(path)
    if path.is_dir():
        _check_no_run(path)
        return _hash(path, (each for each in path.iterdir() if each.suffix in PARTS))
    if not HUB_ID.fullmatch(checkpoint) or path.suffix in WEIGHTS:
        raise InputError(
            "no such file or folder", key="--checkpoint", found=checkpoint, accepted=CHECKPOINTS
        )
    return checkpoint


def _check_no_run(folder: Path) -> None:
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists() and not (folder / "config.json").exists():
        raise InputError(
            "is the folder of a run, and no checkpoint",
            key="--checkpoint",
            found=str(folder),
            accepted=str(last),
        )


def _hash(folder: Path, paths: Iterable[Path]) -> str:
    files = sorted(each for each in paths if each.is_file())
    content = "".join(f"{each.relative_to(folder)} {sha256_of(each)}\n" for each in files)
    return hashlib.sha256(content.encode()).hexdigest()
