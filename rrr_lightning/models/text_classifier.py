"""`TextClassifier`: a pretrained body with a new head, for classes or scores of texts.

Batches are dicts with `input_ids`, `attention_mask`, `token_type_ids` where there are any, and
`labels`, as Hugging Face's collators give them: int64 classes, or float32 scores where
`num_classes` is 1. The defaults are the recipe for GLUE.

Suffixes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from rrr_lightning.distillation.logits import RowSchema
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.models.masked_networks import plain_config
from rrr_lightning.models.masked_rows import KeywordInputs, usable_positions
from rrr_lightning.models.student import CHECKPOINT_KEY, agree_on_classes, check_classes
from rrr_lightning.models.text_bodies import (
    agree_on_tokens,
    build_classifier,
    load_body,
    stored_vocabulary,
)
from rrr_lightning.models.text_scores import check_scores, make_scores
from rrr_lightning.models.text_student import TextStudent
from rrr_lightning.tokens import Vocabulary

# ----------------------------------------------------------------------
# Means over all rows of an evaluation, however they are spread over batches and ranks.


class RowMean(Metric):
    """The mean of a value over rows.

    Args:
        exponential: Return its exponential: the perplexity, where the value is a loss.
    """

    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self, exponential: bool = False) -> None:
        super().__init__()
        self.exponential = exponential
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, total: Tensor, rows: int) -> None:
        """Adds the sum of the value over a number of rows."""
        self.total += total
        self.rows += rows

    def compute(self) -> Tensor:
        """Returns the mean, NaN over no rows at all."""
        mean = self.total / self.rows
        return mean.exp() if self.exponential else mean


STAGES = ("val", "test")


class TextClassifier(TextStudent):
    """Fine-tunes any Hugging Face network on texts or pairs of texts.

    Args:
        body: A checkpoint of this library (of a masked language model, or of a classifier, whose
            head is left behind), a Hugging Face folder, or a hub id; with new weights a BERT of
            size `mini`, `small`, `base` or `large`, or a configuration with `model_type`.
        num_classes: The number of classes, or 1 for a score; a data module's must be the same.
        class_names: The classes in the order of the columns; None for the data module's, if any.
        metrics: Of `accuracy`, `f1` and `matthews`, or for scores of `pearson` and `spearman`; None
            for the data module's, or else `accuracy`, or both of a score.
        pretrained: Take the body's weights; False takes its architecture and vocabulary alone.
        dropout: Probability of every dropout, in the body and before the head; None for the body's
            own, which is 0 where pre-training went without.
        learning_rate: The peak learning rate.
        betas: The decay rates of AdamW's moments.
        epsilon: What AdamW adds to the denominator.
        weight_decay: The decay of AdamW; 0.1 equals the recipe's decoupled ones.
        decay_vectors: Decay biases and norms too, as the recipe does.
        warmup_steps: Optimizer steps of linear warm-up from 0; then linear to 0 at `max_steps`.
        warmup_fraction: The same as a fraction of all steps; both None for the recipe's 0.06.
        optimizer: A factory that replaces AdamW.
        lr_scheduler: A factory that replaces the schedule.
        seed: The key of all randomness; None for the global seed.
    """

    student_logits = "network"

    def __init__(
        self,
        body: str | dict = "base",  # type: ignore[type-arg]
        num_classes: int = 2,
        *,
        class_names: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        pretrained: bool = True,
        dropout: float | None = None,
        learning_rate: float = 5e-5,
        betas: tuple[float, float] = (0.9, 0.98),
        epsilon: float = 1e-6,
        weight_decay: float = 0.1,
        decay_vectors: bool = True,
        warmup_steps: int | None = None,
        warmup_fraction: float | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        check_types(TextClassifier.__init__, locals(), "model.")
        super().__init__(
            learning_rate=learning_rate,
            betas=betas,
            epsilon=epsilon,
            weight_decay=weight_decay,
            decay_vectors=decay_vectors,
            warmup_steps=warmup_steps,
            warmup_fraction=warmup_fraction,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            seed=seed,
        )
        self.save_hyperparameters()
        if dropout is not None and not 0 <= dropout < 1:
            raise InputError(
                "out of range", key="model.dropout", found=dropout, accepted="0 <= dropout < 1"
            )
        self.num_classes = num_classes
        # A score has one column and no name.
        named = class_names is not None or num_classes != 1
        self.class_names = check_classes(num_classes, class_names) if named else None
        self.metrics = check_scores(metrics, num_classes)
        loaded = load_body(body, pretrained)
        self.vocabulary: Vocabulary | None = loaded.vocabulary
        with self.keyed_construction():
            self.network: Any = build_classifier(loaded, num_classes, dropout)
        # What rebuilds the network without the files that it came from.
        self.hparams.update(self.arguments())
        self.scores = nn.ModuleDict()
        self._suffixes: tuple[str, ...] = ()
        self._inputs = KeywordInputs(self.network)

    # ------------------------------------------------------------------------------ rows

    def forward(self, batch: Any) -> Tensor:
        """Returns logits [B, K] of a batch; of scores, [B, 1]."""
        _require(batch, "input_ids")
        logits_BK: Tensor = self.network(**self._inputs(batch)).logits
        return logits_BK

    def logits(self, batch: Any) -> Tensor:
        """Returns the same."""
        return self.forward(batch)

    def schema(self) -> RowSchema:
        """Returns the classes, and what the ids in a batch stand for."""
        known = self.vocabulary
        return RowSchema(
            columns=self.num_classes,
            labels=self.class_names,
            input_vocabulary=None if known is None else known.fingerprint,
        )

    # ------------------------------------------------------------------------------ steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the task loss: cross-entropy, or the squared error of scores."""
        labels_B = _require(batch, "labels")
        loss = self._losses(self(batch), labels_B).mean()
        self.log_training_loss(loss, len(labels_B))
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Logs `val/loss` and the metrics, such as `val/accuracy`.

        Further loaders of a data module log theirs under other names: `val/accuracy_mismatched`.
        """
        self._evaluate("val", batch, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Logs the same under `test/`."""
        self._evaluate("test", batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Returns logits [B, K]."""
        return self.logits(batch)

    def _losses(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        if self.num_classes == 1:
            return F.mse_loss(logits_BK[:, 0].float(), labels_B.float(), reduction="none")
        return F.cross_entropy(logits_BK.float(), labels_B, reduction="none")

    def _evaluate(self, stage: str, batch: Any, loader: int) -> None:
        if loader >= len(self._suffixes):
            raise InputError(
                "there are more loaders than the data module names",
                key="evaluation_suffixes",
                found=f"loader {loader}",
                accepted=f"a data module with one suffix for each, not {self._suffixes}",
            )
        logits_BK, labels_B = self(batch), _require(batch, "labels")
        suffix = self._suffixes[loader]
        scores: Any = self.scores[stage + suffix]
        for name, score in scores.items():
            if name == "loss":
                score.update(self._losses(logits_BK, labels_B).sum(), len(labels_B))
            else:
                score.update(logits_BK, labels_B)
            self.log(
                f"{stage}/{name}{suffix}",
                score,
                prog_bar=loader == 0,
                add_dataloader_idx=False,
                metric_attribute=f"scores.{stage}{suffix}.{name}",
            )

    # ------------------------------------------------------------------------------ wiring

    def setup(self, stage: str) -> None:
        """Takes classes, metrics and tokens of the data module; refuses what does not fit."""
        data = getattr(self.trainer, "datamodule", None)
        self.class_names = agree_on_classes(self.num_classes, self.class_names, data)
        self.vocabulary = agree_on_tokens(self.network, self.vocabulary, data)
        length, longest = getattr(data, "max_length", None), usable_positions(self.network)
        if isinstance(length, int) and longest is not None and length > longest:
            raise InputError(
                "is longer than the network's positions",
                key="data.max_length",
                found=length,
                accepted=f"at most {longest}",
            )
        self._suffixes = tuple(getattr(data, "evaluation_suffixes", ("",)))
        names = self.metrics or check_scores(getattr(data, "metrics", None), self.num_classes)
        names = names or (("pearson", "spearman") if self.num_classes == 1 else ("accuracy",))
        for key in (stage + suffix for stage in STAGES for suffix in self._suffixes):
            made = make_scores(names, self.num_classes)
            self.scores[key] = nn.ModuleDict({"loss": RowMean(), **made})

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Looks, once, whether the network has the tokens of the batch; keys dropout."""
        most = self.network.get_input_embeddings().num_embeddings
        last = int(_require(batch, "input_ids").max()) if batch_idx == 0 else 0
        if last >= most:
            raise InputError(
                "the batch holds a token that the network does not have",
                key="model.body",
                found=last,
                accepted=f"less than {most}",
            )
        super().on_train_batch_start(batch, batch_idx)

    # ------------------------------------------------------------------------------ checkpoints

    def arguments(self) -> dict[str, Any]:
        """Returns what rebuilds the architecture, whichever way it was given."""
        return {
            "body": plain_config(self.network.config),
            "num_classes": self.num_classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "metrics": None if self.metrics is None else list(self.metrics),
        }

    def describe(self) -> dict[str, Any]:
        """Adds the tokenizer, so that evaluation does without its files."""
        described, known = super().describe(), self.vocabulary
        described["schema"]["input_vocabulary"] = self.schema().input_vocabulary
        return {
            **described,
            "tokenizer_json": known and known.tokenizer_json,
            "special_token_ids": known and dict(known.special_token_ids),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the checkpoint's class names and tokens where it knows none itself."""
        super().on_load_checkpoint(checkpoint)
        described = checkpoint.get(CHECKPOINT_KEY, {})
        labels = described.get("schema", {}).get("labels")
        if self.class_names is None and labels is not None:
            self.class_names = tuple(labels)
        self.vocabulary = self.vocabulary or stored_vocabulary(described)


def _require(batch: Any, name: str) -> Tensor:
    found = batch.get(name) if isinstance(batch, Mapping) else None
    if not isinstance(found, Tensor):
        raise InputError(
            f"a text classifier needs {name} in a batch",
            key="batch",
            found=", ".join(map(str, batch))
            if isinstance(batch, Mapping)
            else type(batch).__name__,
            accepted="a dict with input_ids, attention_mask and labels",
        )
    return found
