from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.models.hugging_face import vocabulary_of
from rrr_lightning.tokens import load_tokenizer


def test_no_tokenizer_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model.tokenizer: no tokenizer .*found") as caught:
        load_tokenizer(str(tmp_path), "model.tokenizer")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("deberta-v2", "spm.model"),
        ("xlm-roberta", "sentencepiece.bpe.model"),
        ("albert", "spiece.model"),
        ("llama", "tokenizer.model"),
        ("marian", "source.spm"),
    ],
)
def test_a_tokenizer_that_needs_a_package_is_not_no_tokenizer(
    tmp_path: Path, kind: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """microsoft/DeBERTa#117: the vocabulary is there, and a missing package hides it."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / file).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02")
    found = importlib.import_module

    def without(name: str, package: str | None = None) -> object:
        if name.partition(".")[0] in ("sentencepiece", "google"):
            raise ModuleNotFoundError(name)
        return found(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    message = rf"teacher: no tokenizer.*{file} needs `pip install sentencepiece protobuf`"
    with pytest.raises(InputError, match=message):
        vocabulary_of(str(tmp_path), "teacher")


def test_another_missing_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n")
    settings = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="install fugashi"):
        load_tokenizer(str(tmp_path), "model.tokenizer")


@pytest.mark.parametrize("name", ["vocab_file", "tokenizer_file", "name_or_path"])
@pytest.mark.parametrize("path", ["{}/vocab.txt", "../vocab.txt", "{}"])
def test_a_tokenizer_opens_no_file_outside_its_folder(tmp_path: Path, name: str, path: str) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsecret\n")
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    settings = {"tokenizer_class": "BertTokenizer", name: path.format(tmp_path)}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    try:
        tokenizer = load_tokenizer(str(folder), "model.tokenizer")
    except InputError:
        return
    assert "secret" not in tokenizer.get_vocab()
