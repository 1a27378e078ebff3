"""Bodies of text classifiers: pretrained networks without their heads, and new heads on them.

A body comes from a checkpoint of this library, a Hugging Face folder or the hub. The classifier on
it is transformers' own `...ForSequenceClassification`, for BERT a pooler, dropout and a linear
layer, so that its weights can be exchanged with other programs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rrr_lightning.distillation.state_dicts import describe_differences
from rrr_lightning.errors import InputError, did_you_mean
from rrr_lightning.models.hugging_face import check_source, load_network, quiet, vocabulary_of
from rrr_lightning.models.loading import load_checkpoint
from rrr_lightning.models.masked_networks import PRESETS, plain_config, read_config
from rrr_lightning.tokens import HUB_ID, Vocabulary, check_same_tokens

# ----------------------------------------------------------------------
# The tokens that a text classifier reads: from its body, its data, or its checkpoint.


def agree_on_tokens(network: Any, known: Vocabulary | None, data: object) -> Vocabulary | None:
    """Returns the vocabulary, from `data` where the body does not tell it."""
    given = Vocabulary.of_data(data)
    if given is None:
        return known
    most = network.get_input_embeddings().num_embeddings
    if given.size > most:
        raise InputError(
            "the network's vocabulary is smaller than the tokenizer's",
            key="model.body",
            found=f"{most} tokens",
            accepted=f"a network with at least {given.size}, or a tokenizer with at most {most}",
        )
    if known is not None:
        check_same_tokens(known, given, "data.tokenizer")
    ours, theirs = network.config.pad_token_id, given.special_token_ids.get("pad_token")
    if None not in (ours, theirs) and ours != theirs:
        raise InputError(
            "the network takes another token for padding than the data's tokenizer",
            key="data.tokenizer",
            found=theirs,
            accepted=str(ours),
        )
    return known or given


def stored_vocabulary(described: Mapping[str, Any]) -> Vocabulary | None:
    """Returns the vocabulary in what a checkpoint says about a classifier, None without one."""
    from tokenizers import Tokenizer

    tokenizer_json = described.get("tokenizer_json")
    if not tokenizer_json:
        return None
    by_id = {
        number: token for token, number in Tokenizer.from_str(tokenizer_json).get_vocab().items()
    }
    return Vocabulary(
        tokens=tuple(by_id.get(number, "") for number in range(max(by_id) + 1)),
        special_token_ids=dict(described.get("special_token_ids") or {}),
        tokenizer_json=tokenizer_json,
    )


KEY = "model.body"
# Trained by a sentence-level task, which masked language models do not have.
_MAY_BE_NEW = "pooler."
_DROPOUT = re.compile("dropout|pdrop")


@dataclass(frozen=True)
class TextBody:
    """A network below its head.

    Args:
        config: Its configuration in plain types.
        state: Its weights by their names in the body; None for new ones.
        vocabulary: The tokens that it reads, where they are known.
    """

    config: dict[str, Any]
    state: Mapping[str, Tensor] | None = None
    vocabulary: Vocabulary | None = None


def load_body(spec: str | os.PathLike[str] | Mapping[str, Any], pretrained: bool) -> TextBody:
    """Returns the body that a spec names."""
    if isinstance(spec, Mapping):
        return TextBody(read_config(spec, KEY, "classification"))
    spec = os.fspath(spec)
    if spec in PRESETS:
        if Path(spec, "config.json").exists():
            raise InputError(
                "is a size of BERT and a folder here",
                key=KEY,
                found=spec,
                accepted=f"{os.path.join('.', spec)} for the folder",
            )
        return TextBody(read_config(spec, KEY))
    path = Path(spec).expanduser()
    if path.is_file():
        body = _from_checkpoint(path)
    elif path.is_dir() or (HUB_ID.fullmatch(spec) and path.suffix != ".ckpt"):
        body = _from_hugging_face(str(path) if path.is_dir() else spec)
    else:
        raise InputError(
            f"no such file or folder{did_you_mean(spec, PRESETS)}",
            key=KEY,
            found=spec,
            accepted="a checkpoint of this library, a Hugging Face folder, a hub id, or "
            + ", ".join(PRESETS),
        )
    return body if pretrained else TextBody(body.config, None, body.vocabulary)


def _from_checkpoint(path: Path) -> TextBody:
    from rrr_lightning.models.masked_lm import MaskedLanguageModel
    from rrr_lightning.models.text_classifier import TextClassifier

    module = load_checkpoint(path, KEY).network
    if isinstance(module, MaskedLanguageModel):
        network: Any = module.network.network
    elif isinstance(module, TextClassifier):
        network = module.network
    else:
        raise InputError(
            f"{path} is no checkpoint of a text model",
            key=KEY,
            found=type(module).__name__,
            accepted="MaskedLanguageModel, TextClassifier",
        )
    state = network.base_model.state_dict()
    return TextBody(plain_config(network.config), state, module.vocabulary)


def _from_hugging_face(source: str) -> TextBody:
    source = check_source(source, KEY)
    with quiet(), torch.random.fork_rng(devices=[]):
        network, info = load_network(source, KEY)
    new = {name for name in info["missing_keys"] if name.startswith(_MAY_BE_NEW)}
    _check_fit(source, network, info, new)
    state = {name: each.float() for name, each in network.state_dict().items() if name not in new}
    return TextBody(plain_config(network.config), state, vocabulary_of(source, KEY))


def _check_fit(source: str, network: Any, info: Mapping[str, Any], new: set[str]) -> None:
    """Refuses weights that leave a part of the body new, or have parts that it lacks."""
    parts = {name for name, _ in network.named_children()}
    prefix = f"{network.base_model_prefix}."
    unexpected = [
        name
        for name in info["unexpected_keys"]
        if name.removeprefix(prefix).partition(".")[0] in parts - {_MAY_BE_NEW.rstrip(".")}
        and not name.endswith("position_ids")
    ]
    shapes = [
        f"{name}: {tuple(stored)} in the file, {tuple(wanted)} by the config"
        for name, stored, wanted in info["mismatched_keys"]
    ]
    missing = set(info["missing_keys"]) - new
    differences = describe_differences(missing, unexpected, shapes)
    if differences:
        raise InputError(
            f"the weights of {source} do not fit its config: {differences}", key=KEY, found=source
        )


def build_classifier(body: TextBody, num_classes: int, dropout: float | None = None) -> nn.Module:
    """Returns a network with the body's weights and a new head; draws from torch's generator."""
    import transformers

    values = {name: value for name, value in body.config.items() if name != "model_type"}
    values |= {"num_labels": num_classes, "problem_type": None}
    if values.get("pad_token_id") is None and body.vocabulary is not None:
        # Decoders look for the last token before the padding, which some configurations leave out.
        values["pad_token_id"] = body.vocabulary.special_token_ids.get("pad_token")
    try:
        config = transformers.AutoConfig.for_model(body.config["model_type"], **values)
        if dropout is not None:
            config.update(dict.fromkeys(_dropouts(config), dropout))
        network: Any = transformers.AutoModelForSequenceClassification.from_config(config)
    except (ValueError, TypeError, ImportError, AssertionError) as error:
        raise InputError(
            f"there is no text classifier of this kind ({str(error).splitlines()[0]})",
            key=KEY,
            found=body.config["model_type"],
        ) from error
    if body.state is not None:
        _fill(network, body.state)
    return network  # type: ignore[no-any-return]


def _dropouts(config: Any) -> list[str]:
    """The names of a configuration's probabilities of dropout, such as `hidden_dropout_prob`."""
    return [
        name
        for name, value in config.to_dict().items()
        if _DROPOUT.search(name) and isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _fill(network: Any, state: Mapping[str, Tensor]) -> None:
    """Loads a body's weights; a pooler stays new where either side has none."""
    wanted = network.base_model.state_dict()
    missing = [name for name in wanted if name not in state and not name.startswith(_MAY_BE_NEW)]
    unexpected = [n for n in state if n not in wanted and not n.startswith(_MAY_BE_NEW)]
    differences = describe_differences(missing, unexpected, [])
    if differences:
        raise InputError(f"the weights do not fit the classifier: {differences}", key=KEY)
    network.base_model.load_state_dict(
        {name: tensor for name, tensor in state.items() if name in wanted}, strict=False
    )
