"""Tiny masked-LM networks and batches of masked tokens for the tests of the models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from rrr_lightning.data.module import KeyedDataModule
from rrr_lightning.data.sampling import Key
from rrr_lightning.keyed_rng import keyed_generator
from rrr_lightning.models.masked_lm import MaskedLanguageModel

ROUNDING = {"rtol": 1e-5, "atol": 1e-6}
SMALL: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 8,
    "embedding_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
    "pad_token_id": 0,
}
TINY_DISTILBERT: dict[str, Any] = {
    "vocab_size": 32,
    "dim": 8,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 16,
    "max_position_embeddings": 20,
}
FAMILIES = {
    "bert": (transformers.BertConfig, transformers.BertForMaskedLM, SMALL),
    "roberta": (transformers.RobertaConfig, transformers.RobertaForMaskedLM, SMALL),
    "electra": (transformers.ElectraConfig, transformers.ElectraForMaskedLM, SMALL),
    "albert": (transformers.AlbertConfig, transformers.AlbertForMaskedLM, SMALL),
    "distilbert": (
        transformers.DistilBertConfig,
        transformers.DistilBertForMaskedLM,
        TINY_DISTILBERT,
    ),
    "modernbert": (
        transformers.ModernBertConfig,
        transformers.ModernBertForMaskedLM,
        SMALL | {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
    ),
}
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(25))]


def masked_lm(family: str = "bert") -> Any:
    torch.manual_seed(0)
    config, network, arguments = FAMILIES[family]
    return network(config(**arguments)).eval()


def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, 32, (3, 8), generator=generator)
    labels = torch.where(torch.rand(3, 8, generator=generator) < 0.3, tokens, -100)
    mask = torch.ones_like(tokens)
    mask[2, 6:], labels[2, 6:] = 0, -100
    return {"input_ids": tokens, "attention_mask": mask, "labels": labels}


def sample(*key: int, length: int = 8) -> dict[str, Tensor]:
    """A text of the key, with none to all of its tokens masked."""
    generator = keyed_generator("text", *key)
    tokens = torch.randint(5, 30, (length,), generator=generator)
    share = torch.rand((), generator=generator) if key[-1] % 3 else -1.0
    masked = torch.rand(length, generator=generator) < share
    return {
        "input_ids": torch.where(masked, 4, tokens),
        "attention_mask": torch.ones_like(tokens),
        "labels": torch.where(masked, tokens, -100),
    }


class Texts:
    """Sample i in epoch e is drawn from (e, i); every third has no masked token."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, keys: Sequence[Key]) -> dict[str, Tensor]:
        samples = [sample(*key) for key in keys]
        return {name: torch.stack([each[name] for each in samples]) for name in samples[0]}


class TextData(KeyedDataModule):
    """What a model looks at in a text data module."""

    vocabulary_size = 30
    sequence_length = 8
    tokenizer_json = "{}"

    def __init__(self, vocabulary: Sequence[str] = tuple(TOKENS), **settings: Any) -> None:
        super().__init__(**{"global_batch_size": 12, "seed": 3, **settings})
        self.vocabulary = tuple(vocabulary)
        self.special_token_ids = {"pad_token": 0, "mask_token": vocabulary.index("[MASK]")}

    def load(self) -> tuple[Texts, Texts]:
        return Texts(46), Texts(10)


TINY = {"model_type": "bert", **{k: v for k, v in SMALL.items() if k != "embedding_size"}}
CALM = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def language_model(dropout: bool = False, **arguments: Any) -> MaskedLanguageModel:
    network = {**TINY, **({} if dropout else CALM), **arguments.pop("network", {})}
    given = {"vocabulary_size": 30, "learning_rate": 0.01, "seed": 0, **arguments}
    return MaskedLanguageModel(network, **given)


class Gradients(Callback):
    """Notes the gradient that each optimizer step has used."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.noted: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step > len(self.noted):
            gradients = [each.grad.flatten().clone() for each in pl_module.parameters()]
            self.noted.append(torch.cat(gradients))

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        if self.folder is not None:
            torch.save(self.noted, self.folder / f"gradients{trainer.global_rank}.pt")


def assert_same(one: list[Tensor], other: list[Tensor], steps: int) -> None:
    assert len(one) == len(other) == steps
    for left, right in zip(one, other, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)  # sums in another order
