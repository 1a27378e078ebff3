"""Loads Hugging Face networks as givers of rows: classifiers of images or text, and masked LMs."""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rrr_lightning.distillation.normalization import Normalization
from rrr_lightning.distillation.schema import RowSchema
from rrr_lightning.distillation.state_dicts import describe_differences
from rrr_lightning.errors import InputError
from rrr_lightning.files import sha256_of
from rrr_lightning.models.masked_rows import KeywordInputs, MaskedRows
from rrr_lightning.models.pretrained import Pretrained
from rrr_lightning.models.vocabulary import Vocabulary, load_tokenizer

logger = logging.getLogger(__name__)

# Weights that published files hold and that no classification or masked-LM network uses.
_SPARE = re.compile(r"(^|\.)(pooler|seq_relationship)\.|position_ids$")
_NO_NAME = re.compile(r"LABEL_\d+")
LEDGER_FILE = "ledger.json"  # in a folder that `rrr export` wrote
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
_TASKS = {
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForMaskedLM",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}


def load_hugging_face(source: str, key: str) -> Pretrained:
    """Loads a network from a local folder or the hub, with its labels or vocabulary.

    Args:
        source: The folder, or the hub's id.
        key: The config key for messages.

    Raises:
        InputError: Not found, of no known task, damaged, or weights that do not fit its config.
    """
    import transformers

    if Path(source).expanduser().is_dir():
        source = str(Path(source).expanduser())
    with quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise unusable(source, error, key) from error
        architecture = next(iter(getattr(config, "architectures", None) or []), "none")
        task = next((task for task in _TASKS if architecture.endswith(task)), None)
        if task is None:
            raise InputError(
                f"hf:{source} gives no rows",
                key=key,
                found=architecture,
                accepted="an architecture " + ", ".join(f"…{task}" for task in _TASKS),
            )
        try:
            network, info = getattr(transformers, _TASKS[task]).from_pretrained(
                source,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                trust_remote_code=False,
            )
        except Exception as error:  # safetensors and pickle errors have no common ancestor
            raise unusable(source, error, key) from error
    _check_fit(source, info, key)
    network.float()
    weights = _find(source, "model.safetensors")
    sha256 = sha256_of(weights) if weights else None
    ledger = _read_ledger(Path(source, LEDGER_FILE))
    if task in ("ForMaskedLM", "ForPreTraining"):
        vocabulary = vocabulary_of(source, key)
        schema = RowSchema(columns=config.vocab_size)
        if vocabulary is not None:
            # Columns of the network beyond the tokens of the tokenizer are padding.
            columns = min(vocabulary.size, config.vocab_size)
            schema = replace(vocabulary.schema, columns=columns)
        rows = MaskedRows(network, schema.columns)
        return Pretrained(rows, schema, sha256, ledger=ledger, vocabulary=vocabulary)
    is_text = task == "ForSequenceClassification"
    vocabulary = vocabulary_of(source, key) if is_text else None
    labels = tuple(str(config.id2label[column]) for column in range(config.num_labels))
    schema = RowSchema(
        columns=config.num_labels,
        labels=None if all(map(_NO_NAME.fullmatch, labels)) else labels,
        normalization=None if is_text else _normalization(source),
        input_vocabulary=None if vocabulary is None else vocabulary.fingerprint,
    )
    return Pretrained(network, schema, sha256, KeywordInputs(network), ledger, vocabulary)


def vocabulary_of(source: str, key: str) -> Vocabulary | None:
    """Returns the vocabulary of a local folder or of a hub id; None, with a warning, without one.

    Args:
        source: The folder, or the hub's id.
        key: The config key for messages.

    Raises:
        InputError: Its tokenizer is damaged.
    """
    if not any(_find(source, name) for name in _VOCABULARIES):
        logger.warning("hf:%s has no tokenizer, so its vocabulary cannot be checked", source)
        return None
    with quiet():
        return Vocabulary.of(load_tokenizer(source, key))


def _read_ledger(path: Path) -> dict[str, Any] | None:
    """What the training cost of a network that `rrr export` wrote to a folder."""
    ledger = json.loads(path.read_text()) if path.is_file() else None
    return ledger if isinstance(ledger, dict) else None


def _normalization(source: str) -> Normalization | None:
    path = _find(source, "preprocessor_config.json")
    settings = json.loads(path.read_text()) if path else {}
    if not settings.get("do_normalize", True):
        return Normalization((0.0,) * 3, (1.0,) * 3)
    if "image_mean" not in settings or "image_std" not in settings:
        logger.warning("hf:%s says no image statistics; it is given the student's images", source)
        return None
    return Normalization(tuple(settings["image_mean"]), tuple(settings["image_std"]))


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
    if "eights only load failed" in str(error) or isinstance(error, pickle.UnpicklingError):
        reason = "its weights hold pickled objects; opening them can run code, so they are refused"
    return InputError(
        f"hf:{source} cannot be loaded ({reason or type(error).__name__})",
        key=key,
        accepted="a folder with config.json and model.safetensors, or the id of a model on the hub "
        "that is cached or can be reached",
    )
