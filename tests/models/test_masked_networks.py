from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from rrr_lightning.errors import InputError
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.masked_networks import (
    PRESETS,
    build_masked_network,
    make_masked_rows,
    plain_config,
    read_config,
)
from tests.models.texts import FAMILIES, TINY, TOKENS, batch, masked_lm


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network with 32 columns and a tokenizer of 30 tokens."""
    masked_lm().save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS))
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "millions"), [("base", 109.5), ("large", 335.2)])
def test_presets_have_the_published_sizes(name: str, millions: float) -> None:
    config = read_config(name)
    with torch.device("meta"):
        network: Any = build_masked_network(config)
    network.tie_weights()  # transformers 5.0 leaves that out on the meta device
    assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(millions, 1e-3)
    assert config["vocab_size"] == 30522
    assert config["hidden_dropout_prob"] == 0.1


def test_the_small_presets_are_the_published_miniatures() -> None:
    shapes = {
        name: (each["num_hidden_layers"], each["hidden_size"]) for name, each in PRESETS.items()
    }
    assert shapes["mini"] == (4, 256)
    assert shapes["small"] == (4, 512)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_configuration_survives_plain_types(family: str) -> None:
    config = json.loads(json.dumps(plain_config(masked_lm(family).config)))
    network: Any = build_masked_network(read_config(config))
    assert plain_config(network.config) == plain_config(masked_lm(family).config)
    assert type(network) is type(masked_lm(family))


def test_a_folder_gives_its_configuration_alone(folder: Path) -> None:
    network, vocabulary = make_masked_rows(str(folder), None, None, False, None)
    assert (network.columns, vocabulary) == (32, None)
    stored = masked_lm().state_dict()["bert.embeddings.word_embeddings.weight"]
    assert not torch.equal(network.network.get_input_embeddings().weight, stored)  # type: ignore[operator]


def test_a_pretrained_folder_gives_weights_and_vocabulary(folder: Path) -> None:
    network, vocabulary = make_masked_rows(str(folder), None, None, True, None)
    assert vocabulary is not None
    assert vocabulary.tokens == tuple(TOKENS)
    expected = masked_lm()(**{**batch(), "labels": None}).logits[batch()["labels"] != -100][:, :30]
    torch.testing.assert_close(network.eval()(batch()), expected)


@pytest.mark.parametrize("pretrained", [False, True])
def test_dropout_acts_until_evaluation(folder: Path, pretrained: bool) -> None:
    # transformers loads weights for evaluation, and Lightning would train them so.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.5}))
    network, _ = make_masked_rows(str(folder), None, None, pretrained, None)
    assert not torch.equal(network(batch()), network(batch()))
    network.eval()
    assert torch.equal(network(batch()), network(batch()))


def test_a_pretrained_model_does_without_the_folder_later(folder: Path) -> None:
    model = MaskedLanguageModel(str(folder), pretrained=True)
    assert (model.vocabulary_size, model.arguments()["pad_vocabulary_to"]) == (30, 32)
    again = MaskedLanguageModel(**model.arguments())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval().logits(batch()), model.eval().logits(batch()))
    assert "tokenizer" not in model.hparams
    assert model.hparams["pretrained"] is False
    assert model.starts_trained
    assert not MaskedLanguageModel(**model.arguments()).starts_trained


def test_a_tokenizer_gives_size_and_padding(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    for given in (tokenizer, str(folder)):
        network, vocabulary = make_masked_rows({**TINY, "pad_token_id": 3}, None, 64, False, given)
        assert vocabulary is not None
        assert network.columns == vocabulary.size == 30
        config: Any = network.network.config
        assert (config.vocab_size, config.pad_token_id) == (64, 0)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            "deberta-v2",
            {"position_buckets": 4, "share_att_key": True, "norm_rel_ebd": "layer_norm"},
        ),
        ("deberta", {"talking_head": False, "position_biased_input": True}),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    ],
)
def test_values_without_a_default_are_taken_where_the_network_reads_them(
    kind: str, values: dict[str, Any]
) -> None:
    size = {**TINY, "model_type": kind, "relative_attention": True, "max_position_embeddings": 16}
    config = read_config({**size, **values})
    assert {name: config[name] for name in values} == values
    near = f"{next(iter(values))}s"
    with pytest.raises(InputError, match=rf"{kind} has no such value"):
        read_config({**size, near: 1})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mimi", r"model.network: no such network; did you mean 'mini'\?; found 'mimi'; accepted"),
        ({"hidden_size": 8}, "no masked-LM network of this model_type; found 'none'"),
        ({"model_type": "brt"}, "of this model_type; did you mean 'bert'.*found 'brt'"),
        ({**TINY, "hiden_size": 8}, r"model.network.hiden_size: .*did you mean 'hidden_size'"),
        ({**TINY, "hidden_size": "wide"}, "model.network: "),
        ({**TINY, "num_attention_heads": 3}, "the configuration builds no network .*hidden size"),
    ],
)
def test_configurations_that_build_nothing_are_refused(spec: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        build_masked_network(read_config(spec))
    assert "\n" not in str(caught.value)


def test_arguments_that_do_not_go_together_are_refused(folder: Path, tmp_path: Path) -> None:
    source, tokenizer = str(folder), str(folder)
    other = tmp_path / "other"
    (other / "vocab").mkdir(parents=True)
    (other / "vocab.txt").write_text("\n".join([*TOKENS[:-1], "owl"]))
    transformers.BertTokenizerFast(str(other / "vocab.txt")).save_pretrained(other)
    config = transformers.BertConfig(**{**TINY, "num_labels": 2})
    transformers.BertForSequenceClassification(config).save_pretrained(other)
    for arguments, message in (
        (("mini", None, None, True, None), "model.pretrained: there are no weights"),
        ((source, None, 64, True, None), "model.pretrained: .*would be padded"),
        ((source, 40, None, True, None), "found 40; accepted: 2 to 30"),
        ((source, 29, None, True, None), "differs from the tokenizer's .*found 29; accepted: 30"),
        ((source, None, None, True, str(other)), "model.tokenizer: another vocabulary"),
        ((str(other), None, None, True, None), "found 'BertForSequenceClassification'"),
        ((TINY, 1, None, False, None), "model.vocabulary_size: out of range; found 1"),
        ((TINY, 31, None, False, tokenizer), "model.vocabulary_size: .*found 31; accepted: 30"),
    ):
        with pytest.raises(InputError, match=message):
            make_masked_rows(*arguments)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"model_type": "modernvbert"}, "without a number of tokens is not supported"),
        ({"model_type": "esm"}, "without a number of tokens is not supported"),
        ({**TINY, "model_type": "xmod"}, r"of this kind is not supported .*language"),
        ({**TINY, "model_type": "funnel"}, "not a configuration of funnel"),
    ],
)
def test_kinds_that_cannot_be_trained_are_refused_in_one_line(spec: Any, message: str) -> None:
    spec = {**spec, "transformers_version": "5"}
    with pytest.raises(InputError, match=message) as caught:
        make_masked_rows(spec, None, None, False, None)
    assert "\n" not in str(caught.value)
