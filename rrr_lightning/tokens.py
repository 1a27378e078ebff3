"""Loads Hugging Face tokenizers, and says why one that is there cannot be opened."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from rrr_lightning.errors import InputError

# Files that hold the tokens of a tokenizer; those after the first two need further packages.
TOKEN_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "tokenizer.model",
    "source.spm",
    "prophetnet.tokenizer",
    "bpe.codes",
    "tokenizer_config.json",
)
# What transformers needs to read the files of SentencePiece, by the names of modules.
_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}


def load_tokenizer(source: str, key: str, accepted: str = "") -> Any:
    """Loads a tokenizer from a local folder or the hub; no code from there is run."""
    import transformers

    folder = Path(source).expanduser()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else source, trust_remote_code=False
        )
        tokenizer("a")  # settings of wrong types show only then
        return tokenizer
    except Exception as error:  # files of many formats fail in many ways
        raise InputError(
            f"no tokenizer can be loaded from there ({_reason(folder, error)})",
            key=key,
            found=source,
            accepted=f"{accepted}a folder with tokenizer.json, or the id of a model on the hub "
            "that is cached or can be reached",
        ) from error


def _reason(folder: Path, error: Exception) -> str:
    """Why it failed; for SentencePiece's files transformers may name the wrong package."""
    pieces = [*folder.glob("*.model"), *folder.glob("*.spm")] if folder.is_dir() else []
    missing = [package for name, package in _SENTENCEPIECE.items() if not _is_installed(name)]
    if pieces and missing and not (folder / "tokenizer.json").is_file():
        return f"{pieces[0].name} needs `pip install {' '.join(missing)}`"
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
