from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError
from rrr_lightning.tokens import load_fast_tokenizer, stored_tokenizer, tokenizer_from
from tests.data.glue_files import write_tokenizer


def save(path: Path, described: Any) -> Path:
    torch.save({"state_dict": {}, "rrr_lightning": described}, path)
    return path


@pytest.mark.parametrize("beside_the_schema", [False, True])
def test_a_checkpoint_gives_its_tokenizer_back(tmp_path: Path, beside_the_schema: bool) -> None:
    tokenizer = load_fast_tokenizer(str(write_tokenizer(tmp_path)))
    special = {"pad_token": 0, "unk_token": 1, "cls_token": 2, "sep_token": 3, "mask_token": 4}
    home = {"special_token_ids": special}
    described = {"tokenizer_json": tokenizer.backend_tokenizer.to_str()}
    described |= home if beside_the_schema else {"schema": home}
    again = stored_tokenizer(save(tmp_path / "a.ckpt", described))
    text = ("the cat sat", "on a mat")
    assert again(*text).data == tokenizer(*text).data
    assert again.pad_token_id == 0


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("notes")
    with pytest.raises(InputError, match=r"data\.tokenizer: .*notes\.txt is no weight file but"):
        stored_tokenizer(path)


def test_a_checkpoint_of_another_library(tmp_path: Path) -> None:
    for content, what in (({"state_dict": {}}, "is no checkpoint of this"), ([1], "no state dict")):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(InputError, match=rf"a\.pt .*{what}"):
            stored_tokenizer(tmp_path / "a.pt")
    odd = [
        {"tokenizer_json": "{", "special_token_ids": {"pad_token": 0}},
        {"tokenizer_json": 3, "special_token_ids": {"pad_token": 0}},
        {"tokenizer_json": "{}", "special_token_ids": 3},
        {"tokenizer_json": "{}", "schema": [1]},
    ]
    for described in odd:
        with pytest.raises(InputError, match=r"is damaged|carries no tokenizer") as caught:
            stored_tokenizer(save(tmp_path / "a.pt", described))
        assert "\n" not in str(caught.value)


def test_a_tokenizer_is_read_without_the_weights(tmp_path: Path) -> None:
    tokenizer = load_fast_tokenizer(str(write_tokenizer(tmp_path)))
    described = {
        "tokenizer_json": tokenizer.backend_tokenizer.to_str(),
        "special_token_ids": {"pad_token": 0},
        "class": Path("a foreign object"),
    }
    content = {"state_dict": {"weight": torch.full((1000,), 7.0)}, "rrr_lightning": described}
    torch.save(content, tmp_path / "a.ckpt")
    assert stored_tokenizer(tmp_path / "a.ckpt").pad_token_id == 0
    read = read_checkpoint(tmp_path / "a.ckpt", device="meta")
    assert read["state_dict"]["weight"].is_meta
    assert read["state_dict"]["weight"].shape == (1000,)


def test_a_checkpoint_without_a_tokenizer(tmp_path: Path) -> None:
    path = save(tmp_path / "image.ckpt", {"class": "ImageClassifier", "schema": {}})
    with pytest.raises(InputError, match=r"image\.ckpt carries no tokenizer; accepted: a folder"):
        stored_tokenizer(path)
    with pytest.raises(InputError, match="the model carries no tokenizer"):
        tokenizer_from("{}", None, "the model")
