from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from rrr_lightning.errors import InputError
from rrr_lightning.export import export_checkpoint
from rrr_lightning.models.hugging_face import load_hugging_face
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.masked_rows import MaskedRows
from rrr_lightning.teachers import load_teacher
from tests.models.texts import FAMILIES, ROUNDING, SMALL, TINY_DISTILBERT, TOKENS, batch, masked_lm
from tests.test_teachers import write_checkpoint

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
    expected = MaskedRows(masked_lm()).logits(given)[:, :30]  # the rest is padding
    torch.testing.assert_close(loaded.network.eval().logits(given), expected, **ROUNDING)
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
        (
            {"architectures": []} | {"hidden_size": 16},
            "no architecture.*fit none; accepted: an arch",
        ),
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
    refuse("truncated, damaged")
    weights.unlink()
    refuse("there are no weights")
    sentinel = tmp_path / "ran"
    torch.save({"weight": RunsCode(sentinel)}, bert_folder / "pytorch_model.bin")
    refuse("do not fit its config")
    assert not sentinel.exists()
    (bert_folder / "config.json").write_text('{"model_type": "bort"}')
    refuse("cannot be loaded")


def test_an_unreachable_hub_id_says_so() -> None:
    with pytest.raises(InputError, match=r"hf:nobody/nothing cannot be loaded.*cached or can be"):
        load_hugging_face("nobody/nothing", KEY)


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    state = {name: tensor.clone() for name, tensor in state.items()}
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("what", ["matrix", "bias", "both"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_what_the_file_holds_is_stored_exported_and_loaded_again(
    tmp_path: Path, what: str, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    """huggingface/transformers#41038: the config says tied, and the file holds both tensors."""
    torch.manual_seed(0)
    config, network, values = FAMILIES[family]
    folder = tmp_path / "folder"
    network(config(**values, tie_word_embeddings=False)).save_pretrained(folder)
    change_config(folder, tie_word_embeddings=True)
    names = list(load_file(folder / "model.safetensors"))
    matrix = next(name for name in names if name.endswith("word_embeddings.weight"))
    decoder = next(name for name in names if name.endswith("decoder.weight"))
    bias = next(name for name in names if name.endswith("decoder.bias"))

    def change(state: dict[str, Tensor]) -> None:
        if what == "bias":
            state[decoder] = state[matrix].clone()
        if what != "matrix":
            state[bias] += 1

    change_weights(folder, change)
    reference = network.from_pretrained(folder).eval()
    given = batch()
    expected = MaskedRows(reference).logits(given).detach()
    with caplog.at_level(logging.WARNING):
        module = MaskedLanguageModel(str(folder), pretrained=True)
    assert "embeddings untied" in caplog.text
    assert module.network.network.config.tie_word_embeddings is False
    checkpoint = write_checkpoint(tmp_path / "last.ckpt", module)
    export_checkpoint(checkpoint, tmp_path / "exported")
    for spec in (str(folder), str(checkpoint), str(tmp_path / "exported")):
        rows = load_teacher(spec).network.eval().logits(given)
        torch.testing.assert_close(rows, expected, **ROUNDING)


def test_equal_matrices_in_the_file_stay_tied(bert_folder: Path) -> None:
    name = "bert.embeddings.word_embeddings.weight"
    change_weights(
        bert_folder,
        lambda state: state.update({"cls.predictions.decoder.weight": state[name].clone()}),
    )
    network = load_hugging_face(str(bert_folder), KEY).network.network
    assert network.get_input_embeddings().weight is network.get_output_embeddings().weight
    assert network.config.tie_word_embeddings


def rename_gamma(state: dict[str, Tensor]) -> None:
    for name in [name for name in state if "LayerNorm" in name]:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        state[old.replace("LayerNorm.bias", "LayerNorm.beta")] = state.pop(name)


def test_weights_of_old_names_load(bert_folder: Path) -> None:
    before = load_hugging_face(str(bert_folder), KEY).network.state_dict()
    change_weights(bert_folder, rename_gamma)
    after = load_hugging_face(str(bert_folder), KEY).network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_config_without_architectures_is_known_by_its_weights(tmp_path: Path) -> None:
    mlm, classifier = tmp_path / "mlm", tmp_path / "classifier"
    masked_lm().save_pretrained(mlm)
    config = transformers.BertConfig(**SMALL, num_labels=3)
    transformers.BertForSequenceClassification(config).save_pretrained(classifier)
    for folder in (mlm, classifier):
        change_config(folder, architectures=None)
    assert isinstance(load_hugging_face(str(mlm), KEY).network, MaskedRows)
    assert load_hugging_face(str(classifier), KEY).schema.columns == 3
    change_weights(mlm, lambda state: state.pop("cls.predictions.transform.dense.bias"))
    with pytest.raises(InputError, match="names no architecture, and the weights fit none"):
        load_hugging_face(str(mlm), KEY)


def test_the_root_of_a_trainers_output_offers_its_checkpoints(tmp_path: Path) -> None:
    for step in (500, 1000):
        masked_lm().save_pretrained(tmp_path / f"checkpoint-{step}")
    for spec in (str(tmp_path), f"hf:{tmp_path}"):
        with pytest.raises(InputError, match=r"no config\.json.*t-1000 or .*checkpoint-500"):
            load_teacher(spec)


def test_a_folder_of_timm_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 10}')
    with pytest.raises(InputError, match=r"timm's.*timm:resnet18\?checkpoint=.*&num_classes=10"):
        load_teacher(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["", "[1]", "[" * 5000, '{"model_type": ["bert"]}', "\0", '{"model_type": "bert"']
)
def test_a_damaged_config_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError) as caught:
        load_teacher(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_sibling_heads_of_pretraining_are_left_out(tmp_path: Path, kind: str) -> None:
    name = {"bert": "Bert", "albert": "Albert"}[kind]
    config = getattr(transformers, f"{name}Config")(**SMALL)
    getattr(transformers, f"{name}ForPreTraining")(config).save_pretrained(tmp_path)
    assert isinstance(load_hugging_face(str(tmp_path), KEY).network, MaskedRows)


def test_a_network_that_gives_no_rows_is_refused_in_one_line(tmp_path: Path) -> None:
    size = {"vocab_size": 32, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    xmod = transformers.XmodConfig(**size, intermediate_size=8, languages=["en_XX"])
    transformers.XmodForMaskedLM(xmod).save_pretrained(tmp_path / "xmod")
    perceiver = transformers.PerceiverConfig(
        vocab_size=32, num_latents=2, d_latents=8, d_model=8, num_blocks=1,
        num_self_attends_per_block=1, num_self_attention_heads=1, num_cross_attention_heads=1,
        max_position_embeddings=8,
    )  # fmt: skip
    transformers.PerceiverForMaskedLM(perceiver).save_pretrained(tmp_path / "perceiver")
    for kind in ("xmod", "perceiver"):
        with pytest.raises(InputError, match="of this kind is not supported") as caught:
            load_hugging_face(str(tmp_path / kind), KEY)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_sharded_folders_load_and_their_index_stays_inside(tmp_path: Path, kind: str) -> None:
    folder, name = tmp_path / "folder", f"model-1.{kind}"
    masked_lm().save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if kind == "bin":
        torch.save(state, folder / name)
    else:
        save_file(state, folder / name, metadata={"format": "pt"})
    stem = "model.safetensors" if kind == "safetensors" else "pytorch_model.bin"
    index = folder / f"{stem}.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}))
    assert isinstance(load_hugging_face(str(folder), KEY).network, MaskedRows)
    (folder / name).rename(tmp_path / name)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, f"../{name}")}))
    with pytest.raises(InputError, match="outside its folder"):
        load_hugging_face(str(folder), KEY)


def test_a_flipped_bit_in_the_weights_of_a_folder_is_noticed(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "a.ckpt", MaskedLanguageModel("mini", 32, seed=0))
    export_checkpoint(checkpoint, tmp_path / "exported")
    path = tmp_path / "exported" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum is wrong"):
        load_teacher(str(tmp_path / "exported"))
