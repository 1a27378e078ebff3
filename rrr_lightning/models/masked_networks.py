"""Masked-LM networks: BERT in four sizes, any Hugging Face configuration, or a pretrained one."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from rrr_lightning.errors import InputError, check, did_you_mean
from rrr_lightning.models.hugging_face import check_config, load_hugging_face
from rrr_lightning.models.masked_rows import MaskedRows, check_rows_once
from rrr_lightning.tokens import (
    Vocabulary,
    check_same_tokens,
    load_tokenizer,
    padded_size,
)

# Heads are 64 wide and the feed-forward layers four times the hidden width, as in the published
# miniatures and in BERT itself.
PRESETS: dict[str, dict[str, Any]] = {
    name: {
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "intermediate_size": 4 * width,
    }
    for name, (layers, width) in {
        "mini": (4, 256),
        "small": (4, 512),
        "base": (12, 768),
        "large": (24, 1024),
    }.items()
}
# What a configuration says about the file that it came from, and not about the network.
_NOT_OF_THE_NETWORK = (
    "_name_or_path",
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "torch_dtype",
)


def make_masked_rows(
    spec: str | dict[str, Any],
    size: int | None,
    multiple: int | None,
    pretrained: bool,
    tokenizer: Any,
) -> tuple[MaskedRows, Vocabulary | None]:
    """Returns a network and its vocabulary; see the arguments of `MaskedLanguageModel`."""
    check(isinstance(spec, str | dict), "model.network", spec, "a name, or a class path")
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer, "model.tokenizer")
    vocabulary = None if tokenizer is None else Vocabulary.of(tokenizer)
    if size is None and vocabulary is not None:
        size = vocabulary.size
    if pretrained:
        network, vocabulary = _load(spec, size, multiple, vocabulary)
    else:
        network = _build(spec, size, multiple, vocabulary)
        check_rows_once(network, "model.network")
    if vocabulary is not None and vocabulary.size != network.columns:
        raise InputError(
            "differs from the tokenizer's number of tokens",
            key="model.vocabulary_size",
            found=network.columns,
            accepted=str(vocabulary.size),
        )
    return network, vocabulary


def _build(
    spec: str | dict[str, Any], size: int | None, multiple: int | None, known: Vocabulary | None
) -> MaskedRows:
    config = read_config(spec)
    stated: Any = config.get("vocab_size")
    check(
        isinstance(stated, int),
        "model.network",
        config["model_type"],
        "a masked-LM network of text with vocab_size",
        "a configuration without a number of tokens is not supported",
    )
    size = _check_size(stated if size is None else size)
    config["vocab_size"] = padded_size(size, multiple)
    if known is not None and "pad_token" in known.special_token_ids:
        config["pad_token_id"] = known.special_token_ids["pad_token"]
    return MaskedRows(build_masked_network(config), size)


def _load(
    source: str | dict[str, Any], size: int | None, multiple: int | None, known: Vocabulary | None
) -> tuple[MaskedRows, Vocabulary | None]:
    if not isinstance(source, str) or source in PRESETS or multiple is not None:
        raise InputError(
            "there are no weights to start from, or they would be padded",
            key="model.pretrained",
            found={"network": source, "pad_vocabulary_to": multiple},
            accepted="a folder or hub id as model.network, and no model.pad_vocabulary_to",
        )
    loaded = load_hugging_face(source, "model.network")
    if not isinstance(loaded.network, MaskedRows):
        raise InputError(
            "not a network for masked language modelling",
            key="model.network",
            found=type(loaded.network).__name__,
            accepted="a folder or hub id of one",
        )
    if known is not None and loaded.vocabulary is not None:
        check_same_tokens(loaded.vocabulary, known, "model.tokenizer")
    columns = _check_size(size or loaded.network.columns, loaded.network.columns)
    # transformers loads weights for evaluation, and Lightning keeps the modes that it finds.
    network = loaded.network.network.train()
    return MaskedRows(network, columns), known or loaded.vocabulary


def _check_size(size: int, most: int | None = None) -> int:
    if size < 2 or (most is not None and size > most):
        raise InputError(
            "out of range",
            key="model.vocabulary_size",
            found=size,
            accepted="2 or more" if most is None else f"2 to {most}, the columns of the network",
        )
    return size


def read_config(
    spec: str | Mapping[str, Any],
    key: str = "model.network",
    task: Literal["masked-LM", "classification"] = "masked-LM",
) -> dict[str, Any]:
    """Returns a whole configuration in plain types, which no longer needs its file."""
    import transformers

    given = (
        dict(spec) if isinstance(spec, Mapping) else PRESETS.get(spec) or _config_file(spec, key)
    )
    check_config(given, key)
    kind = str(given.get("model_type") or "")
    auto = transformers.models.auto.modeling_auto
    known = {
        "masked-LM": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "classification": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    }[task]
    if kind not in known:
        nearest = did_you_mean(kind, known) if kind else ""
        raise InputError(
            f"no {task} network of this model_type{nearest}",
            key=key,
            found=kind or "none",
            accepted="a Hugging Face configuration such as {model_type: bert, hidden_size: 256}",
        )
    values = {name: value for name, value in given.items() if name != "model_type"}
    if isinstance(spec, Mapping) and "transformers_version" not in spec:
        _refuse_unknown(kind, values, key)  # written by hand
    try:
        config = transformers.AutoConfig.for_model(kind, **values)
    except Exception as error:  # configurations check themselves in many ways
        raise InputError(
            f"not a configuration of {kind} ({str(error).splitlines()[0]})", key=key
        ) from error
    return plain_config(config)


def plain_config(config: Any) -> dict[str, Any]:
    """Returns a Hugging Face configuration as a mapping that `read_config` takes."""
    whole = config.to_diff_dict()
    return {name: value for name, value in whole.items() if name not in _NOT_OF_THE_NETWORK}


def build_masked_network(config: Mapping[str, Any]) -> nn.Module:
    """Builds a network from a configuration as `read_config` gives it, with new weights.

    Its attention is torch's scaled dot product wherever the architecture has it.
    """
    import transformers

    values = {name: value for name, value in config.items() if name != "model_type"}
    try:
        made = transformers.AutoConfig.for_model(config["model_type"], **values)
        network: nn.Module = transformers.AutoModelForMaskedLM.from_config(made)
    except Exception as error:  # networks of many kinds fail in many ways
        raise InputError(
            f"the configuration builds no network ({next(iter(str(error).splitlines()), '')})",
            key="model.network",
        ) from error
    return network


def _config_file(source: str, key: str) -> dict[str, Any]:
    import transformers

    folder = Path(source).expanduser()
    try:
        found, _ = transformers.PretrainedConfig.get_config_dict(
            str(folder) if folder.is_dir() else source
        )
    except Exception as error:  # missing, unreachable, damaged: of many kinds
        raise InputError(
            f"no such network{did_you_mean(source, PRESETS)}",
            key=key,
            found=source,
            accepted=", ".join(PRESETS) + ", a mapping with model_type, a folder with config.json, "
            "or the id of a model on the hub that is cached or can be reached",
        ) from error
    return dict(found)


def _refuse_unknown(kind: str, values: Mapping[str, Any], key: str) -> None:
    """A configuration takes any key without a word, so a misspelt one would be lost."""
    import transformers

    known = transformers.AutoConfig.for_model(kind)
    network = importlib.import_module(
        type(known).__module__.replace(".configuration_", ".modeling_")
    )
    source = inspect.getsource(network)  # reads values that the class has no default for
    for name in values:
        is_read = re.search(rf"config(\.|, [\"']){re.escape(name)}\b", source)
        if not hasattr(known, name) and not is_read:
            raise InputError(
                f"{kind} has no such value{did_you_mean(name, known.to_dict())}",
                key=f"{key}.{name}",
                found=values[name],
            )
