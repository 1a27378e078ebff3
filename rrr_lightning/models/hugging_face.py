"""Loads Hugging Face networks as givers of rows: classifiers of images or text, and masked LMs."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rrr_lightning.distillation.logits import Normalization, RowSchema
from rrr_lightning.distillation.state_dicts import describe_differences, tied_names
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError, check, refuse
from rrr_lightning.files import check_regular_files, read_json, sha256_of
from rrr_lightning.models.masked_rows import (
    KeywordInputs,
    MaskedRows,
    check_rows_once,
    vocabulary_size,
)
from rrr_lightning.models.pretrained import Pretrained, size_limit
from rrr_lightning.tokens import TOKEN_FILES, Vocabulary, load_tokenizer

logger = logging.getLogger(__name__)

# Weights that published files hold and that no classification or masked-LM network uses.
_SPARE = re.compile(r"(^|\.)(pooler|seq_relationship|sop_classifier)\.|position_ids$")
_NO_NAME = re.compile(r"LABEL_\d+")
# What makes transformers fetch code, or weights beside those of the folder.
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_ATTENTION_KINDS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
_LOADS = ("use_pretrained_backbone", "use_kernels", "quantization_config")
_MOST = 1 << 24  # of any whole number in a configuration
_MOST_LABELS = 1 << 20
LEDGER_FILE = "ledger.json"  # in a folder that `rrr export` wrote
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TASKS = {
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForMaskedLM",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}


def load_hugging_face(source: str, key: str) -> Pretrained:
    """Loads a network from a local folder or the hub, with its labels or vocabulary."""
    source = check_source(source, key)
    with quiet():
        config, state, weights = _read(source, key)
        architecture = next(iter(getattr(config, "architectures", None) or []), None)
        known = {name: auto for name, auto in _TASKS.items() if str(architecture).endswith(name)}
        if architecture is None:
            known = {name: auto for name, auto in _TASKS.items() if name != "ForPreTraining"}
        elif not known:
            raise InputError(
                f"hf:{source} gives no rows",
                key=key,
                found=architecture,
                accepted="an architecture " + ", ".join(f"…{task}" for task in _TASKS),
            )
        task, network = _load_any(source, known, config, state, key)
    sha256 = sha256_of(weights) if not weights.name.endswith(".json") else None
    ledger = _read_ledger(Path(source, LEDGER_FILE))
    if task in ("ForMaskedLM", "ForPreTraining"):
        vocabulary = vocabulary_of(source, key)
        size = vocabulary_size(network, key)
        schema = RowSchema(columns=size)
        if vocabulary is not None:
            # Columns of the network beyond the tokens of the tokenizer are padding.
            schema = replace(vocabulary.schema, columns=min(vocabulary.size, size))
        rows = MaskedRows(network, schema.columns)
        check_rows_once(rows, key)
        return Pretrained(rows, schema, sha256, ledger=ledger, vocabulary=vocabulary)
    is_text = task == "ForSequenceClassification"
    vocabulary = vocabulary_of(source, key) if is_text else None
    labels = tuple(str(config.id2label[column]) for column in range(config.num_labels))
    schema = RowSchema(
        columns=config.num_labels,
        labels=None if all(map(_NO_NAME.fullmatch, labels)) else labels,
        normalization=None if is_text else _normalization(source, key),
        input_vocabulary=None if vocabulary is None else vocabulary.fingerprint,
    )
    return Pretrained(network, schema, sha256, KeywordInputs(network), ledger, vocabulary)


def check_source(source: str, key: str) -> str:
    """Returns a folder with a configuration, or a hub id as it is."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return source
    check_regular_files(folder, key)
    if not (folder / "config.json").is_file():
        inside = sorted(str(each.parent) for each in folder.glob("*/config.json"))
        raise InputError(
            "the folder holds no config.json",
            key=key,
            found=source,
            accepted=" or ".join(inside[:6]) or "a folder with config.json and model.safetensors",
        )
    config = read_mapping(folder / "config.json", key)
    if "model_type" not in config and isinstance(config.get("architecture"), str):
        name, columns = config["architecture"], config.get("num_classes", 1000)
        raise InputError(
            "the folder is timm's, not transformers'",
            key=key,
            found=source,
            accepted=f"timm:{name}?checkpoint={folder}/model.safetensors&num_classes={columns}",
        )
    return str(folder)


def check_config(values: Any, key: str, depth: int = 0) -> None:
    """Refuses a configuration that fetches or runs something, or is too large to be true."""
    check(depth < 20, key, None, "fewer than 20 levels", "the configuration is nested too deeply")
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    for name, value in items:
        if name in _ATTENTION:
            kinds = value.values() if isinstance(value, Mapping) else [value]
            check(
                all(each is None or each in _ATTENTION_KINDS for each in kinds),
                f"{key}: {name}",
                value,
                ", ".join(_ATTENTION_KINDS),
                "the configuration asks for code from elsewhere",
            )
        elif isinstance(value, Mapping | list | tuple):
            check_config(value, key, depth + 1)
        elif type(value) is int:
            most = _MOST_LABELS if name == "num_labels" else _MOST
            check(abs(value) <= most, f"{key}: {name}", value, f"at most {most}")
        if name in _LOADS and value:
            refuse(f"{key}: {name}", value, "false", "the configuration loads further weights")


def read_mapping(path: Path, key: str) -> dict[str, Any]:
    """Returns the mapping in a JSON file."""
    content = read_json(path, key)
    check(isinstance(content, dict), key, str(path), "an object", "holds no mapping")
    return dict(content)


def load_network(source: str, key: str) -> tuple[Any, Mapping[str, Any]]:
    """Returns a network below its head, and what transformers says of how its weights fit."""
    config, state, _ = _read(source, key)
    return _load(source, "AutoModel", config, state, key)


def _read(source: str, key: str) -> tuple[Any, dict[str, Tensor], Path]:
    """The configuration of a folder or hub id, its state dict, and the file that it came from."""
    import transformers

    try:
        described = _find(source, "config.json")
        if described is not None:
            check_config(read_mapping(described, key), key)
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        names = [name for each in _WEIGHTS for name in (each, f"{each}.index.json")]
        path = next((path for path in (_find(source, name) for name in names) if path), None)
        if path is None:
            raise OSError(f"there are no weights: {', '.join(_WEIGHTS)} or an index of shards")
        if path.name.endswith(".json") and not Path(source).is_dir():
            for name in set(read_json(path, key)["weight_map"].values()):
                _find(source, os.path.basename(name))  # into the cache, where the index expects it
    except InputError:
        raise
    except Exception as error:  # a damaged configuration fails in many ways
        raise unusable(source, error, key) from error
    content = read_checkpoint(path, key)
    return config, {n: each for n, each in content.items() if isinstance(each, Tensor)}, path


def _load_any(
    source: str, known: Mapping[str, str], config: Any, state: dict[str, Tensor], key: str
) -> tuple[str, Any]:
    """The network of the first task that the weights fit, and the task."""
    import transformers

    fault = None
    for task, auto in known.items():
        if len(known) > 1 and type(config) not in getattr(transformers, auto)._model_mapping:
            continue
        try:
            network, info = _load(source, auto, config, state, key)
            _check_fit(source, info, key)
        except InputError as error:
            fault = fault or error
            continue
        network.float()
        return task, network
    if len(known) == 1 and fault is not None:
        raise fault
    raise InputError(
        f"the config of hf:{source} names no architecture, and the weights fit none",
        key=key,
        accepted="an architecture " + ", ".join(f"…{task}" for task in _TASKS),
    )


def _load(
    source: str, auto: str, config: Any, state: dict[str, Tensor], key: str
) -> tuple[Any, Mapping[str, Any]]:
    """A network with the weights of a file; tied where the network that the config describes is.

    Where a file holds both of two tied matrices and they differ, transformers loads both and leaves
    `tie_word_embeddings` as it is. Here the config then says what the network does.
    """
    import transformers

    numbers = sum(each.numel() for each in state.values())
    try:
        for _ in range(2):
            limit = size_limit(numbers, len(state), key)
            with torch.random.fork_rng(devices=[]), limit:
                described = getattr(transformers, auto).from_config(config)
            network, info = type(described).from_pretrained(
                None,
                config=config,
                state_dict=dict(state),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused later, by name
            )
            if tied_names(network) == tied_names(described):
                return network, info
            if getattr(config, "tie_word_embeddings", False):
                logger.warning(
                    "%s: hf:%s is loaded with its embeddings untied: its file holds both matrices, "
                    "and they differ",
                    key,
                    source,
                )
                config.tie_word_embeddings = False
    except InputError:
        raise
    except Exception as error:  # configurations and weights fail in many ways
        raise unusable(source, error, key) from error
    raise InputError(
        f"the file of hf:{source} holds tied weights with different values", key=key, found=source
    )


def vocabulary_of(source: str, key: str) -> Vocabulary | None:
    """Returns the vocabulary of a folder or hub id; None, with a warning, without one."""
    if not any(_find(source, name) for name in TOKEN_FILES):
        logger.warning("hf:%s has no tokenizer, so its vocabulary cannot be checked", source)
        return None
    with quiet():
        return Vocabulary.of(load_tokenizer(source, key))


def _read_ledger(path: Path) -> dict[str, Any] | None:
    """What the training cost of a network that `rrr export` wrote to a folder."""
    return read_mapping(path, LEDGER_FILE) if path.exists() else None


def _normalization(source: str, key: str) -> Normalization | None:
    path = _find(source, "preprocessor_config.json")
    settings = read_mapping(path, key) if path else {}
    if not settings.get("do_normalize", True):
        return Normalization((0.0,) * 3, (1.0,) * 3)
    if "image_mean" not in settings or "image_std" not in settings:
        logger.warning("hf:%s says no image statistics; it is given the student's images", source)
        return None
    try:
        return Normalization(tuple(settings["image_mean"]), tuple(settings["image_std"]))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} holds no image statistics ({error})", key=key) from error


def _check_fit(source: str, info: Mapping[str, Any], key: str) -> None:
    unexpected = [name for name in info["unexpected_keys"] if not _SPARE.search(name)]
    shapes = [
        f"{name}: {tuple(stored)} in the file, {tuple(wanted)} by the config"
        for name, stored, wanted in info["mismatched_keys"]
    ]
    differences = describe_differences(info["missing_keys"], unexpected, shapes)
    if differences:
        raise InputError(
            f"the weights of hf:{source} do not fit its config: {differences}", key=key
        )


def _find(source: str, name: str) -> Path | None:
    """The path of a file in a local folder or of a hub id; None where there is no such file."""
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError

    try:
        return Path(hf_hub_download(source, name))
    except EntryNotFoundError:
        return None


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps reports and progress bars of transformers to itself."""
    from transformers.utils import logging as reports

    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(reports.CRITICAL)
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()


def unusable(source: str, error: Exception, key: str) -> InputError:
    """Returns the error for a folder or hub id that transformers cannot load, in one line."""
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return InputError(
        f"hf:{source} cannot be loaded ({reason or type(error).__name__})",
        key=key,
        accepted="a folder with config.json and model.safetensors, or the id of a model on the hub "
        "that is cached or can be reached",
    )
