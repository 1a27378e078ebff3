"""Hugging Face networks as givers of rows: image classifiers, masked-LM and sequence classifiers.

A masked-LM network gives rows without computing logits of every token: only the hidden states of
the masked tokens go through its vocabulary head, about a seventh of the head's work at 15 %.

Suffixes: B batch, T tokens, H hidden width, N masked tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rrr_lightning.distillation.normalization import Normalization
from rrr_lightning.distillation.schema import RowSchema
from rrr_lightning.distillation.state_dicts import describe_differences, sha256_of
from rrr_lightning.errors import InputError
from rrr_lightning.models.pretrained import Pretrained

logger = logging.getLogger(__name__)

# Weights that published files hold and that no classification or masked-LM network uses.
_SPARE = re.compile(r"(^|\.)(pooler|seq_relationship)\.|position_ids$")
_NO_NAME = re.compile(r"LABEL_\d+")
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
_TASKS = {
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForMaskedLM",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
}


class MaskedRows(nn.Module):
    """A masked-LM network whose vocabulary head sees the masked tokens alone.

    Args:
        network: Any Hugging Face network for masked language modelling.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._inputs = KeywordInputs(network)

    def rows(self, batch: Mapping[str, Any]) -> Tensor:
        """Returns logits [N, V] of the tokens whose label is not -100, in the order of the batch.

        Args:
            batch: `input_ids` [B, T], `labels` [B, T], and whatever else the network takes.

        Raises:
            InputError: The batch has no labels, or its sequences are too long for the network.
        """
        labels_BT = batch.get("labels") if isinstance(batch, Mapping) else None
        if not isinstance(labels_BT, Tensor):
            raise InputError(
                "a masked-LM teacher needs to know which tokens are masked",
                key="batch",
                found=sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__,
                accepted="a dict with input_ids and labels, -100 where nothing is masked",
            )
        config: Any = self.network.config
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and 0 < positions < labels_BT.shape[1]:
            raise InputError(
                "the sequences are longer than the teacher's positions",
                key="batch",
                found=labels_BT.shape[1],
                accepted=f"at most {positions} tokens",
            )

        def keep_masked(module: nn.Module, args: Any, output: Any) -> Any:
            hidden_1NH = output[0][labels_BT != -100].unsqueeze(0)
            if isinstance(output, tuple):
                return (hidden_1NH, *output[1:])
            return type(output)(last_hidden_state=hidden_1NH)

        encoder: Any = self.network.base_model
        handle = encoder.register_forward_hook(keep_masked)
        try:
            logits_1NV: Tensor = self.network(**self._inputs(batch)).logits
        finally:
            handle.remove()
        return logits_1NV.squeeze(0)


class KeywordInputs:
    """Picks from a dict batch what a network's forward names; leaves other batches to be called.

    Args:
        network: The network that will be called.
    """

    def __init__(self, network: nn.Module) -> None:
        self._names = [
            parameter.name
            for parameter in inspect.signature(network.forward).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "labels"
        ]

    def __call__(self, batch: Any) -> Any:
        """Returns keyword arguments from a dict, or the first element of a tuple batch.

        Raises:
            InputError: A dict batch with nothing that the network takes.
        """
        if not isinstance(batch, Mapping):
            return batch[0] if isinstance(batch, tuple | list) else batch
        given = {name: batch[name] for name in self._names if name in batch}
        if not given:
            raise InputError(
                "a Hugging Face teacher finds nothing that it takes in the batch",
                key="distillation.teacher_inputs",
                found=", ".join(map(str, batch)),
                accepted=", ".join(self._names[:4]),
            )
        return given


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
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise _unusable(source, error, key) from error
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
            raise _unusable(source, error, key) from error
    _check_fit(source, info, key)
    network.float()
    weights = _find(source, "model.safetensors")
    sha256 = sha256_of(weights) if weights else None
    if task in ("ForMaskedLM", "ForPreTraining"):
        return Pretrained(MaskedRows(network), _vocabulary(source, config), sha256)
    labels = tuple(str(config.id2label[column]) for column in range(config.num_labels))
    schema = RowSchema(
        columns=config.num_labels,
        labels=None if all(map(_NO_NAME.fullmatch, labels)) else labels,
        normalization=_normalization(source) if task == "ForImageClassification" else None,
    )
    return Pretrained(network, schema, sha256, KeywordInputs(network))


def vocabulary_schema(tokenizer: Any, columns: int) -> RowSchema:
    """Returns what the columns of a vocabulary head mean.

    Args:
        tokenizer: A Hugging Face tokenizer.
        columns: The columns of the head; more than tokens where the vocabulary is padded.
    """
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    dense = [token_id for _, token_id in tokens] == list(range(len(tokens)))
    return RowSchema(
        columns=columns,
        labels=tuple(token for token, _ in tokens) if dense else None,
        special_token_ids={
            name: tokenizer.convert_tokens_to_ids(token)
            for name, token in sorted(tokenizer.special_tokens_map.items())
            if isinstance(token, str)
        },
    )


def _vocabulary(source: str, config: Any) -> RowSchema:
    import transformers

    if not any(_find(source, name) for name in _VOCABULARIES):
        logger.warning("hf:%s has no tokenizer, so its vocabulary cannot be checked", source)
        return RowSchema(columns=config.vocab_size)
    with _quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return vocabulary_schema(tokenizer, config.vocab_size)


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
    differences = describe_differences(sorted(info["missing_keys"]), unexpected, shapes)
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
def _quiet() -> Iterator[None]:
    """Keeps reports and progress bars to itself: what matters of them becomes one line."""
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


def _unusable(source: str, error: Exception, key: str) -> InputError:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    if "eights only load failed" in str(error) or isinstance(error, pickle.UnpicklingError):
        reason = "its weights hold pickled objects; opening them can run code, so they are refused"
    return InputError(
        f"hf:{source} cannot be loaded ({reason or type(error).__name__})",
        key=key,
        accepted="a folder with config.json and model.safetensors, or the id of a model on the hub "
        "that is cached or can be reached",
    )
