from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rrr_lightning.errors import InputError
from rrr_lightning.models.hugging_face import load_hugging_face
from rrr_lightning.models.masked_rows import MaskedRows
from tests.models.texts import ROUNDING, SMALL, TINY_DISTILBERT, TOKENS, batch, masked_lm

KEY = "distillation.teachers[0]"


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    masked_lm().save_pretrained(tmp_path / "bert")
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(TOKENS))
    transformers.BertTokenizerFast(str(vocabulary)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_folder_gives_network_vocabulary_and_hash(bert_folder: Path) -> None:
    loaded = load_hugging_face(str(bert_folder), KEY)
    assert isinstance(loaded.network, MaskedRows)
    given = batch()
    expected = MaskedRows(masked_lm()).rows(given)[:, :30]  # the rest is padding
    torch.testing.assert_close(loaded.network.eval().rows(given), expected, **ROUNDING)
    assert loaded.schema.columns == 30
    assert loaded.schema.labels == tuple(TOKENS)
    assert loaded.schema.special_token_ids is not None
    assert loaded.schema.special_token_ids["mask_token"] == 4
    assert loaded.sha256 is not None


def test_low_precision_files_are_computed_in_full(tmp_path: Path) -> None:
    masked_lm().to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_hugging_face(str(tmp_path), KEY)
    assert {each.dtype for each in loaded.network.parameters()} == {torch.float32}
    assert loaded.schema.labels is None


def test_a_pretraining_checkpoint_leaves_its_spare_head(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SMALL)
    transformers.BertForPreTraining(config).save_pretrained(tmp_path)
    assert isinstance(load_hugging_face(str(tmp_path), KEY).network, MaskedRows)


def test_an_image_folder_gives_labels_and_statistics(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3,
        id2label={0: "cat", 1: "dog", 2: "owl"},
    )  # fmt: skip
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    loaded = load_hugging_face(str(tmp_path), KEY)
    assert loaded.schema.normalization is None
    statistics = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(statistics))
    loaded = load_hugging_face(str(tmp_path), KEY)
    assert loaded.schema.labels == ("cat", "dog", "owl")
    assert loaded.schema.normalization is not None
    assert loaded.schema.normalization.std == (0.4, 0.5, 0.6)
    images = torch.randn(2, 3, 32, 32)
    expected = network(images).logits
    assert torch.equal(loaded.network.eval()(images).logits, expected)
    assert loaded.inputs is not None
    assert loaded.inputs((images, 1)) is images
    assert set(loaded.inputs({"pixel_values": images, "labels": 1})) == {"pixel_values"}


def test_a_sequence_classifier_has_no_names_unless_told(tmp_path: Path) -> None:
    config = transformers.DistilBertConfig(**TINY_DISTILBERT, num_labels=3)
    transformers.DistilBertForSequenceClassification(config).save_pretrained(tmp_path)
    loaded = load_hugging_face(str(tmp_path), KEY)
    assert (loaded.schema.columns, loaded.schema.labels) == (3, None)
    assert loaded.inputs is not None
    given = batch()
    tokens = {**given, "token_type_ids": given["input_ids"], "idx": 3}
    assert set(loaded.inputs(tokens)) == {"input_ids", "attention_mask"}


def test_weights_that_do_not_fit_the_config_are_refused(bert_folder: Path) -> None:
    path = bert_folder / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"num_hidden_layers": 3}, r"missing \(bert\.encoder\.layer\.2"),
        ({"num_hidden_layers": 1}, r"unexpected \(bert\.encoder\.layer\.1"),
        ({"hidden_size": 16}, r"of another shape .*\(8,\) in the file, \(16,\) by the config"),
        ({"architectures": ["BertForQuestionAnswering"]}, "found 'BertForQuestionAnswering'"),
        ({"architectures": None}, "found 'none'; accepted: an architecture …ForMaskedLM"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message) as caught:
            load_hugging_face(str(bert_folder), KEY)
        assert str(caught.value).startswith(KEY)
        assert "\n" not in str(caught.value)


class RunsCode:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.sentinel}",)


def test_folders_that_cannot_be_loaded_are_refused_in_one_line(
    bert_folder: Path, tmp_path: Path
) -> None:
    def refuse(match: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            load_hugging_face(str(bert_folder), KEY)
        assert "\n" not in str(caught.value)

    weights = bert_folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    refuse("cannot be loaded")
    weights.unlink()
    refuse("cannot be loaded")
    sentinel = tmp_path / "ran"
    torch.save({"weight": RunsCode(sentinel)}, bert_folder / "pytorch_model.bin")
    refuse("pickled objects")
    assert not sentinel.exists()
    (bert_folder / "config.json").write_text('{"model_type": "bort"}')
    refuse("cannot be loaded")


def test_an_unreachable_hub_id_says_so() -> None:
    with pytest.raises(InputError, match=r"hf:nobody/nothing cannot be loaded.*cached or can be"):
        load_hugging_face("nobody/nothing", KEY)
