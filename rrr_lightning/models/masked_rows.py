"""A masked-LM network that gives rows: only the masked tokens go through its vocabulary head.

Logits of every token would be about seven times the head's work and memory at 15 % masking, and
nothing is learned from them. The gathered hidden states are as exact: the head sees one token at a
time.

Suffixes: B batch, T tokens, H hidden width, N masked tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rrr_lightning.distillation.logits import TensorNotes, masked_places, moved_pair
from rrr_lightning.errors import InputError

# ----------------------------------------------------------------------
# Attention masks that a network takes without a look inside.


# Networks in which every token sees all that are not padding, and nothing else decides.
FAMILIES = ("albert", "bert", "distilbert", "electra", "roberta")

_is_full: TensorNotes[bool] = TensorNotes()  # by mask


def carry_mask(before: Any, after: Any) -> None:
    """Notes whether anything in a batch on a device is padding, as the host sees it."""
    pair = moved_pair(before, after, "attention_mask")
    if pair is not None:
        _is_full.put(pair[1], bool(pair[0].all()))


def takes_ready_masks(config: Any) -> bool:
    """Whether a network of a transformers config takes a mask as `ready_mask` returns it."""
    return (
        getattr(config, "model_type", None) in FAMILIES
        and getattr(config, "_attn_implementation", None) == "sdpa"
        and not getattr(config, "is_decoder", False)
    )


def ready_mask(mask_BT: Tensor) -> Tensor | None:
    """Returns the same mask, as a network takes it without asking."""
    is_full = _is_full.of(mask_BT)
    if is_full is None or mask_BT.ndim != 2:
        return mask_BT
    if is_full:
        return None
    length = mask_BT.shape[1]
    return mask_BT.bool()[:, None, None, :].expand(-1, 1, length, length).contiguous()


class MaskedRows(nn.Module):
    """A masked-LM network whose vocabulary head sees the masked tokens alone.

    Args:
        network: Any Hugging Face network for masked language modelling.
        columns: The number of real tokens where the network's vocabulary is padded: the columns
            after them are cut off, so that no probability goes there. None for all columns.
    """

    def __init__(self, network: nn.Module, columns: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.columns = vocabulary_size(network) if columns is None else columns
        self.positions = usable_positions(network)
        self._inputs = KeywordInputs(network)

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Returns logits [N, V] of the tokens with a label other than -100, in their order."""
        labels_BT = masked_labels(batch)
        if self.positions is not None and labels_BT.shape[1] > self.positions:
            raise InputError(
                "the sequences are longer than the network's positions",
                key="batch",
                found=labels_BT.shape[1],
                accepted=f"at most {self.positions} tokens",
            )
        places_N = masked_places(labels_BT)

        def keep_masked(module: nn.Module, args: Any, output: Any) -> Any:
            hidden_1NH = output[0].flatten(0, 1).index_select(0, places_N).unsqueeze(0)
            if isinstance(output, tuple):
                return (hidden_1NH, *output[1:])
            return type(output)(last_hidden_state=hidden_1NH)

        encoder: Any = self.network.base_model
        handle = encoder.register_forward_hook(keep_masked)
        try:
            logits_1NV: Tensor = self.network(**self._inputs(batch)).logits
        finally:
            handle.remove()
        return logits_1NV[0, :, : self.columns]

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Returns the same, for a teacher."""
        logits_NV: Tensor = self(batch)
        return logits_NV


def vocabulary_size(network: Any, key: str = "model.network") -> int:
    """Returns the number of columns of a masked-LM network."""
    size = getattr(network.config, "vocab_size", None)
    if not isinstance(size, int):
        raise InputError(
            "a network of this kind is not supported: its config has no vocab_size",
            key=key,
            found=type(network).__name__,
            accepted="a masked-LM network of text",
        )
    return size


def check_rows_once(rows: MaskedRows, key: str) -> None:
    """Runs a network on a few tokens, so that one that gives no rows is refused before the run."""
    ids = torch.full((1, min(16, rows.positions or 16)), min(7, rows.columns - 1))
    labels = torch.full_like(ids, -100).index_fill(1, torch.tensor([0]), 0)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    if any(each.device.type != "cpu" for each in rows.parameters()):
        return
    training = rows.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            shape = tuple(rows.eval()(batch).shape)
        reason = None if shape == (1, rows.columns) else f"its rows have the shape {shape}"
    except Exception as error:  # networks of many kinds fail in many ways
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    finally:
        rows.train(training)
    if reason is not None:
        raise InputError(
            f"a network of this kind is not supported ({reason})",
            key=key,
            found=type(rows.network).__name__,
            accepted="a masked-LM network that takes input_ids and attention_mask",
        )


def masked_labels(batch: Any) -> Tensor:
    """Returns the labels [B, T] of a batch of masked tokens."""
    labels_BT = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(labels_BT, Tensor):
        raise InputError(
            "a masked-LM network needs to know which tokens are masked",
            key="batch",
            found=sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__,
            accepted="a dict with input_ids and labels, -100 where nothing is masked",
        )
    return labels_BT


def usable_positions(network: Any) -> int | None:
    """Returns the longest sequence that a network takes, None where it does not say."""
    positions = getattr(network.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return None
    # RoBERTa and its like count positions from the one after the padding's.
    embeddings = getattr(network.base_model, "embeddings", None)
    # In XLM and FlauBERT that name is the table of tokens, whose padding does not move positions.
    first = (
        None if isinstance(embeddings, nn.Embedding) else getattr(embeddings, "padding_idx", None)
    )
    return positions if first is None else positions - first - 1


def input_names(network: Any) -> list[str]:
    """Returns what of a batch a network takes, labels aside.

    `token_type_ids` is not among them where the network has one type, as RoBERTa's have.
    """
    names = [
        parameter.name
        for parameter in inspect.signature(network.forward).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "labels"
    ]
    has_types = getattr(network.config, "type_vocab_size", 2) > 1
    return [name for name in names if has_types or name != "token_type_ids"]


class KeywordInputs:
    """Picks from a dict batch what a network's forward names; leaves other batches to be called.

    Args:
        network: The network that will be called.
    """

    def __init__(self, network: nn.Module) -> None:
        self._names = input_names(network)
        self._config: Any = network.config

    def __call__(self, batch: Any) -> Any:
        """Returns keyword arguments from a dict, or the first element of a tuple batch."""
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
        mask = given.get("attention_mask")
        if isinstance(mask, Tensor) and takes_ready_masks(self._config):
            given["attention_mask"] = ready_mask(mask)
        return given
