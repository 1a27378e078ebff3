from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import keyed_randomness
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.masked_networks import plain_config
from rrr_lightning.models.student import CHECKPOINT_KEY
from rrr_lightning.models.text_bodies import TextBody, build_classifier, load_body
from tests.data.glue_files import write_tokenizer
from tests.models.texts import (
    FAMILIES,
    ROUNDING,
    SMALL,
    TINY,
    TOKENS,
    TextData,
    language_model,
    masked_lm,
)
from tests.models.tiny import make_trainer

TOKENS_BT = torch.tensor([[2, 7, 9, 3, 0], [2, 8, 8, 6, 3]])
BERT_HEADS = (
    transformers.BertModel,
    transformers.BertForMaskedLM,
    transformers.BertForPreTraining,
    transformers.BertForSequenceClassification,
)


def build(body: TextBody, classes: int = 3, seed: int = 0) -> Any:
    with keyed_randomness(seed):
        return build_classifier(body, classes).eval()


def folder_of(network: Any, folder: Path) -> str:
    network.save_pretrained(folder)
    return str(folder)


def hidden(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network.eval().base_model(TOKENS_BT)[0]


def checkpoint(folder: Path, **arguments: Any) -> tuple[Any, str]:
    model = language_model(**arguments)
    trainer = make_trainer(1)
    trainer.fit(model, TextData())
    trainer.save_checkpoint(folder / "end.ckpt")
    return model, str(folder / "end.ckpt")


# ------------------------------------------------------------------------------ from checkpoints


def test_a_masked_language_model_lends_its_body(tmp_path: Path) -> None:
    model, path = checkpoint(tmp_path, pad_vocabulary_to=64)
    body = load_body(path, pretrained=True)
    network = build(body)
    assert torch.equal(hidden(network), hidden(model.network.network))
    assert isinstance(network, transformers.BertForSequenceClassification)
    assert network.get_input_embeddings().weight.shape == (64, 8)
    assert body.vocabulary is not None
    assert body.vocabulary.tokens == tuple(TOKENS)
    assert network.classifier.weight.shape == (3, 8)


def test_a_path_is_as_good_as_its_name(tmp_path: Path) -> None:
    _, path = checkpoint(tmp_path)
    body = load_body(Path(path), pretrained=True)
    assert body.state is not None  # and no new weights in silence
    folder_of(masked_lm("bert"), tmp_path / "folder")
    assert load_body(tmp_path / "folder", pretrained=True).state is not None


def test_without_its_weights_the_architecture_is_the_same(tmp_path: Path) -> None:
    model, path = checkpoint(tmp_path)
    one, other = (load_body(path, pretrained=taken) for taken in (True, False))
    assert other.state is None
    assert (one.config, one.vocabulary) == (other.config, other.vocabulary)
    heads = [build(body).classifier.weight for body in (one, other)]
    assert torch.equal(*heads)  # so that arms differ in what is compared alone
    assert not torch.equal(hidden(build(other)), hidden(model.network.network))


# ------------------------------------------------------------------------------ from transformers


@pytest.mark.parametrize("family", list(FAMILIES))
def test_folders_of_masked_language_models(tmp_path: Path, family: str) -> None:
    network = masked_lm(family)
    body = load_body(folder_of(network, tmp_path), pretrained=True)
    made = build(body)
    torch.testing.assert_close(hidden(made), hidden(network), **ROUNDING)
    assert made(TOKENS_BT).logits.shape == (2, 3)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_dropout_is_the_bodys_or_what_is_asked_for(tmp_path: Path, family: str) -> None:
    def found(dropout: float | None) -> set[float]:
        made = build_classifier(body, 3, dropout)
        again = build_classifier(TextBody(plain_config(made.config)), 3)
        both = [
            {each.p for each in network.modules() if isinstance(each, torch.nn.Dropout)}
            for network in (made, again)
        ]
        assert both[0] == both[1]  # it travels in the configuration
        return both[0]

    body = load_body(folder_of(masked_lm(family), tmp_path), pretrained=True)
    assert found(0.25) == {0.25}
    assert found(0.0) == {0.0}
    assert 0.25 not in found(None)


def test_attention_drops_out_too(tmp_path: Path) -> None:
    body = load_body(folder_of(masked_lm(), tmp_path), pretrained=True)
    config = build_classifier(body, 3, 0.25).config
    assert (config.attention_probs_dropout_prob, config.classifier_dropout) == (0.25, None)


def test_a_decoder_is_rebuilt_from_what_travels(tmp_path: Path) -> None:
    # It has no masked language model, only a classifier.
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=120)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path)  # which knows the padding, as the configuration does not
    made = build(load_body(str(tmp_path), pretrained=True))
    again = build(load_body(plain_config(made.config), pretrained=False))
    again.load_state_dict(made.state_dict())
    assert torch.equal(made(TOKENS_BT).logits, again(TOKENS_BT).logits)


def test_a_folder_named_like_a_size_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder_of(masked_lm(), tmp_path / "mini")
    line = r"model.body: is a size of BERT and a folder here; found 'mini'; accepted: \./mini for"
    with pytest.raises(InputError, match=line):
        load_body("mini", pretrained=True)
    assert load_body("./mini", pretrained=True).state is not None


def test_a_new_classifier_is_ready_to_train(tmp_path: Path) -> None:
    # transformers loads weights for evaluation, and Lightning keeps the modes that it finds.
    body = load_body(folder_of(masked_lm(), tmp_path), pretrained=True)
    assert all(module.training for module in build_classifier(body, 3).modules())


@pytest.mark.parametrize("kind", BERT_HEADS)
def test_a_pooler_is_taken_where_there_is_one(tmp_path: Path, kind: Any) -> None:
    network = kind(transformers.BertConfig(**SMALL))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    made = build(load_body(folder_of(network, tmp_path), pretrained=True))
    torch.testing.assert_close(hidden(made), hidden(network), **ROUNDING)
    pooler = getattr(network.base_model, "pooler", None)
    if pooler is None:
        assert made.bert.pooler.dense.weight.std() < 0.03  # new, as the configuration has it
    else:
        assert torch.equal(made.bert.pooler.dense.weight, pooler.dense.weight)
    assert made.classifier.weight.std() < 0.1


def test_the_head_is_new_even_where_the_folder_has_one_that_fits(tmp_path: Path) -> None:
    config = transformers.BertConfig(**SMALL, num_labels=3)
    network = transformers.BertForSequenceClassification(config)
    body = load_body(folder_of(network, tmp_path), pretrained=True)
    heads = [build(body, seed=seed).classifier.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], network.classifier.weight)


def test_a_tokenizer_in_the_folder_is_known(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    config = transformers.BertConfig(**{**SMALL, "vocab_size": 128})
    body = load_body(folder_of(transformers.BertModel(config), tmp_path), pretrained=True)
    assert body.vocabulary is not None
    assert body.vocabulary.tokens[:2] == ("[PAD]", "[UNK]")
    assert body.vocabulary.tokenizer_json is not None


def test_loading_draws_nothing_from_the_stream_of_the_run(tmp_path: Path) -> None:
    folder = folder_of(masked_lm(), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_body(folder, pretrained=True)
    assert torch.equal(torch.rand(1), expected)


def test_configurations_have_new_weights() -> None:
    for spec in ("mini", TINY):
        assert load_body(spec, pretrained=True).state is None


# ------------------------------------------------------------------------------ bad input


def test_bodies_that_are_not_there(tmp_path: Path) -> None:
    for spec, message in (
        ("runs/bert/checkpoints/last.ckpt", "no such file or folder; found 'runs/bert/"),
        ("last.ckpt", "no such file or folder; found 'last.ckpt'"),
        ("./mini", r"no such file or folder; did you mean 'mini'\?"),
        (str(tmp_path), r"the folder holds no config\.json"),
        ("owner/unknown", "hf:owner/unknown cannot be loaded"),
        (
            {"model_type": "bertt"},
            r"no classification network of this model_type; did you mean 'bert'\?",
        ),
    ):
        with pytest.raises(InputError, match=rf"model\.body: .*{message}"):
            load_body(spec, pretrained=True)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(InputError, match=r"model\.body: .*notes\.txt is no weight file but text"):
        load_body(str(tmp_path / "notes.txt"), pretrained=True)
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    with pytest.raises(InputError, match=r"model\.body: .*does not say which network"):
        load_body(str(tmp_path / "foreign.ckpt"), pretrained=True)


def test_an_image_checkpoint_is_refused(tmp_path: Path) -> None:
    model = ImageClassifier("cifar_resnet8", 4, seed=0)
    torch.save(
        {"state_dict": model.state_dict(), CHECKPOINT_KEY: model.describe()},
        tmp_path / "image.ckpt",
    )
    message = (
        r"model\.body: .*image\.ckpt is no checkpoint of a text model; found 'ImageClassifier'"
    )
    with pytest.raises(InputError, match=message):
        load_body(str(tmp_path / "image.ckpt"), pretrained=True)


def spoiled(folder: Path, change: Any) -> str:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def without_a_layer(state: dict[str, Any]) -> None:
    for name in [name for name in state if ".layer.1." in name]:
        del state[name]


def of_another_width(state: dict[str, Any]) -> None:
    name = "bert.encoder.layer.0.output.dense.bias"
    state[name] = torch.zeros(len(state[name]) + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_a_layer, r"16 missing \(.*layer\.1\."),
        (of_another_width, r"1 of another shape \(.*layer\.0\.output\.dense\.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder_of(masked_lm(), tmp_path)
    with pytest.raises(InputError, match=rf"model\.body: .*do not fit its config: .*{message}"):
        load_body(spoiled(tmp_path, change), pretrained=True)


def test_a_configuration_with_fewer_layers_than_the_weights_is_refused(tmp_path: Path) -> None:
    folder_of(masked_lm(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 1}))
    with pytest.raises(InputError, match=r"16 unexpected \(.*layer\.1\."):
        load_body(str(tmp_path), pretrained=True)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder_of(masked_lm(), tmp_path / "whole")
    (tmp_path / "pickled").mkdir()
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "pickled")
    torch.save({"a": Path("x")}, tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model\.body: .*do not fit its config: 37 missing"):
        load_body(str(tmp_path / "pickled"), pretrained=True)


def test_networks_without_a_text_classifier_are_refused() -> None:
    config = {"model_type": "wav2vec2", "hidden_size": 8}
    with pytest.raises(InputError, match=r"model\.body: .*no text classifier.*found 'wav2vec2'"):
        build(TextBody(config))
