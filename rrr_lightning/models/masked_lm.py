"""`MaskedLanguageModel`: the text student, BERT-base with the reference recipe by default.

Batches are dicts with `input_ids`, `attention_mask` and `labels`, -100 where there is no target, as
Hugging Face's `DataCollatorForLanguageModeling` gives them. Vocabulary head and loss see the masked
tokens alone, and an optimizer step follows the mean over all of its masked tokens, whatever their
numbers in micro-batches and ranks.

Suffixes: B batch, T tokens, N masked tokens (the rows), V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from rrr_lightning.distillation.logits import RowSchema, carry_places, masked_places
from rrr_lightning.distillation.losses import in_chunks
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.models.masked_networks import make_masked_rows, plain_config
from rrr_lightning.models.masked_rows import masked_labels
from rrr_lightning.models.student import CHECKPOINT_KEY
from rrr_lightning.models.text_classifier import RowMean
from rrr_lightning.models.text_student import TextStudent
from rrr_lightning.tokens import Vocabulary, agree_on_vocabulary, check_same_tokens

# ----------------------------------------------------------------------
# Right gradients where micro-batches and ranks have unequal numbers of rows.


# E. Any constant gives the same step; this one keeps losses near their means for micro-batches of
# usual size, and being a power of two it changes no bit of a gradient.
EXPECTED_ROWS = 1024.0


class RowCounting(LightningModule):
    """Mix-in for a LightningModule whose batches hold varying numbers of rows.

    The training step returns `self.contribution(sum over rows, number of rows)`. The gradients are
    put to scale in `on_before_optimizer_step`, after half-precision gradients were unscaled and
    before any are clipped; a callback of that name, which runs earlier, sees them unscaled.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted_rows = 0
        self._counted_step = 0

    def contribution(self, total: Tensor, count: int) -> Tensor:
        """Returns what a micro-batch adds to the loss of its optimizer step, and notes its rows."""
        if self._trainer is not None and self.trainer.training:
            step = self.trainer.global_step
            if self._counted_rows and step != self._counted_step:
                raise InputError(
                    f"{type(self).__name__}.on_before_optimizer_step does not call super()",
                    accepted="a call of super().on_before_optimizer_step(optimizer)",
                )
            self._counted_rows += count
            self._counted_step = step
        return total * (self.row_factor(count) / max(count, 1))

    def row_factor(self, count: int) -> float:
        """Returns what a mean over `count` rows is multiplied by to be such a contribution."""
        return float(count > 0) if self._parts == 1 else count / EXPECTED_ROWS

    def on_train_start(self) -> None:
        """Starts to count; refuses strategies that accumulate gradients by themselves."""
        super().on_train_start()
        self._counted_rows = 0
        if self.trainer.strategy.handles_gradient_accumulation:
            raise InputError(
                "a strategy that accumulates gradients by itself cannot weigh rows equally",
                key="trainer.strategy",
                found=type(self.trainer.strategy).__name__,
                accepted="a single device, ddp or fsdp",
            )

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Makes the gradients those of the mean over all rows of the step."""
        super().on_before_optimizer_step(optimizer)
        if self._parts == 1:
            self._counted_rows = 0
            return
        gradients = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        rows = self._rows_of_all_ranks()
        self._counted_rows = 0
        torch._foreach_mul_(gradients, EXPECTED_ROWS * self._parts / rows)

    @property
    def _parts(self) -> int:
        """How many micro-batches of all ranks make a full step; 0 without a trainer."""
        if self._trainer is None:
            return 0
        parts: int = self.trainer.accumulate_grad_batches * self.trainer.world_size
        return parts

    def _rows_of_all_ranks(self) -> Tensor:
        """At least 1: a step without any row has no gradient to put to scale."""
        rows = torch.full((), float(self._counted_rows), device=self.device)
        if self.trainer.world_size > 1:
            rows = self.trainer.strategy.reduce(rows, reduce_op="sum")
        return rows.clamp(min=1.0)


class MaskedLanguageModel(RowCounting, TextStudent):
    """Trains any Hugging Face masked-LM network.

    Args:
        network: A BERT of size `mini`, `small`, `base` or `large`; any other architecture as a
            mapping with `model_type`; or a folder or hub id whose configuration is taken.
        vocabulary_size: The number of tokens; None for the tokenizer's, or else the one in the
            network's configuration, 30,522 for the sizes of BERT. A data module's must be the same.
        pad_vocabulary_to: Round the columns of embedding and head up to a multiple of this, such as
            64, for faster matrix products on GPUs. Rows end before the padding, so it changes
            neither losses nor what a teacher can be.
        pretrained: Start from the weights of the folder or hub id.
        compile_network: Compile the network, for varying numbers of masked tokens.
        tokenizer: A tokenizer, its folder or hub id, for checkpoints to carry and teachers to be
            held against; None for the data module's, or that of the pretrained network.
        learning_rate: The peak learning rate; the recipe's at 4096 samples per step.
        betas: The decay rates of AdamW's moments.
        epsilon: What AdamW adds to the denominator.
        weight_decay: The decay of AdamW; 0.02 equals the recipe's decoupled 1e-5 at its rate.
        decay_vectors: Decay biases and norms too, as the recipe does.
        warmup_steps: Optimizer steps of linear warm-up from 0; then linear to 0.02 of the peak at
            `max_steps`.
        warmup_fraction: The same as a fraction of all steps; both None for the recipe's 0.06.
        optimizer: A factory that replaces AdamW.
        lr_scheduler: A factory that replaces the schedule.
        seed: The key of all randomness; None for the global seed.
    """

    student_logits = "network"
    final_factor = 0.02  # of the learning rate, at the last step

    def __init__(
        self,
        network: str | dict[str, Any] = "base",
        vocabulary_size: int | None = None,
        *,
        pad_vocabulary_to: int | None = None,
        pretrained: bool = False,
        compile_network: bool = False,
        tokenizer: Any = None,
        learning_rate: float = 5e-4,
        betas: tuple[float, float] = (0.9, 0.98),
        epsilon: float = 1e-6,
        weight_decay: float = 0.02,
        decay_vectors: bool = True,
        warmup_steps: int | None = None,
        warmup_fraction: float | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        check_types(MaskedLanguageModel.__init__, locals(), "model.")
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
        self.save_hyperparameters(ignore=["tokenizer"])
        with self.keyed_construction():
            self.network, self.vocabulary = make_masked_rows(
                network, vocabulary_size, pad_vocabulary_to, pretrained, tokenizer
            )
        if compile_network:
            self.network.network.compile()
        # What rebuilds the network without the files that it came from.
        self.starts_trained = pretrained
        self.hparams.update(self.arguments(), pretrained=False)
        self.row_means = nn.ModuleDict({stage: _row_means() for stage in ("val", "test")})

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens, without padding."""
        return self.network.columns

    # ------------------------------------------------------------------------------ rows

    def forward(self, batch: Any) -> Tensor:
        """Returns logits [N, V] of the masked tokens of a batch, in its order."""
        logits_NV: Tensor = self.network(batch)
        return logits_NV

    def logits(self, batch: Any) -> Tensor:
        """Returns the same."""
        return self.forward(batch)

    def schema(self) -> RowSchema:
        """Returns the vocabulary, as far as it is known."""
        known = self.vocabulary
        return RowSchema(columns=self.vocabulary_size) if known is None else known.schema

    # ------------------------------------------------------------------------------ steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the part of the micro-batch in the loss; logs the mean over its masked tokens."""
        logits_NV, targets_N = self._rows_and_targets(batch)
        count = len(targets_N)
        if not count:
            return self.contribution(logits_NV.float().sum(), count)
        mean = in_chunks(_cross_entropy, logits_NV, targets_N)
        self.log_training_loss(mean, count)
        return self.contribution(mean * count, count)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs `val/loss`, `val/accuracy` and `val/perplexity`, over all masked tokens."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the same under `test/`."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns logits [N, V] of the masked tokens."""
        return self.logits(batch)

    def _rows_and_targets(self, batch: Any) -> tuple[Tensor, Tensor]:
        labels_BT = masked_labels(batch)
        targets_N = labels_BT.flatten().index_select(0, masked_places(labels_BT))
        return self.network(batch), targets_N

    def _evaluate(self, stage: str, batch: Any) -> None:
        logits_NV, targets_N = self._rows_and_targets(batch)
        loss = F.cross_entropy(logits_NV.float(), targets_N, reduction="sum")
        right = (logits_NV.argmax(dim=1) == targets_N).sum()
        means: Any = self.row_means[stage]
        for name, metric in means.items():
            metric.update(right if name == "accuracy" else loss, len(targets_N))
            self.log(f"{stage}/{name}", metric, prog_bar=name == "loss")

    # ------------------------------------------------------------------------------ wiring

    def note_batch(self, before: Any, after: Any) -> None:
        """Notes which tokens are masked as well."""
        super().note_batch(before, after)
        carry_places(before, after)

    def setup(self, stage: str) -> None:
        """Takes the vocabulary of the data module; refuses another, and too long sequences."""
        data = getattr(self.trainer, "datamodule", None)
        padding = getattr(self.network.network.config, "pad_token_id", None)
        self.vocabulary = agree_on_vocabulary(self.vocabulary_size, self.vocabulary, padding, data)
        length, longest = getattr(data, "sequence_length", None), self.network.positions
        if isinstance(length, int) and longest is not None and length > longest:
            raise InputError(
                "the sequences are longer than the network's positions",
                key="data.sequence_length",
                found=length,
                accepted=f"at most {longest}",
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Looks, once, whether the tokens of the batch are in the vocabulary; keys dropout."""
        if batch_idx == 0:
            self._check_tokens(masked_labels(batch), batch.get("input_ids"))
        super().on_train_batch_start(batch, batch_idx)

    def _check_tokens(self, *tokens: Any) -> None:
        highest = max(int(each.max()) for each in tokens if each is not None)
        if highest >= self.vocabulary_size:
            raise InputError(
                "the batch holds a token that is not in the vocabulary",
                key="model.vocabulary_size",
                found=highest,
                accepted=f"tokens below {self.vocabulary_size}",
            )

    # ------------------------------------------------------------------------------ checkpoints

    def arguments(self) -> dict[str, Any]:
        """Returns what rebuilds the architecture, whichever way it was given."""
        config = plain_config(self.network.network.config)
        size, padded = self.vocabulary_size, config["vocab_size"]
        return {
            "network": config,
            "vocabulary_size": size,
            "pad_vocabulary_to": padded if padded > size else None,
        }

    def describe(self) -> dict[str, Any]:
        """Adds the tokenizer, so that export and evaluation do without its files."""
        known = self.vocabulary
        return {**super().describe(), "tokenizer_json": known and known.tokenizer_json}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the checkpoint's vocabulary, or refuses to go on with another."""
        super().on_load_checkpoint(checkpoint)
        stored = Vocabulary.described(checkpoint.get(CHECKPOINT_KEY, {}))
        if stored is not None and self.vocabulary is not None:
            check_same_tokens(stored, self.vocabulary, "data")
        self.vocabulary = self.vocabulary or stored


def _cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NV.float(), targets_N)


def _row_means() -> nn.ModuleDict:
    perplexity = RowMean(exponential=True)
    return nn.ModuleDict({"loss": RowMean(), "accuracy": RowMean(), "perplexity": perplexity})
