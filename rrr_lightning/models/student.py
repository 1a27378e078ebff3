"""The base of all students: optimizer, keyed randomness, checkpoint content, training loss.

A student is an ordinary LightningModule that trains with or without this library's callback. It
names the sub-module whose output is its logits (`student_logits`), returns logits when it serves as
a teacher, and describes itself in plain types inside its checkpoints, so that a network
can be rebuilt without the code or configuration that made it.

Lightning turns whatever it shows on a progress bar into a number after every batch, which on a GPU
waits for the whole step. So the bar gets the loss at logging steps alone. A loss or weights that
are not finite stop the run, and are not saved.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rrr_lightning.distillation.logits import RowSchema
from rrr_lightning.errors import InputError, check
from rrr_lightning.keyed_rng import check_seed, global_seed, keyed_randomness, rekey
from rrr_lightning.models.optimization import check_schedule, cosine, learning_rate_factor

# ----------------------------------------------------------------------
# Classes: how many, which, in what order, and whether the data means the same by them.


MOST_CLASSES = 10_000_000


def check_classes(num_classes: int, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Returns the class names as a tuple."""
    good = type(num_classes) is int and 2 <= num_classes <= MOST_CLASSES
    check(good, "num_classes", num_classes, f"2 or more, at most {MOST_CLASSES}")
    if class_names is not None and len(class_names) != num_classes:
        raise InputError(
            "need one name per class",
            key="class_names",
            found=f"{len(class_names)} names",
            accepted=f"{num_classes} names",
        )
    if class_names is None:
        return None
    twice = sorted({str(name) for name in class_names if list(class_names).count(name) > 1})
    check(not twice, "class_names", twice, "another name for each class", "are equal")
    return tuple(class_names)


def agree_on_classes(
    num_classes: int, class_names: tuple[str, ...] | None, data: object
) -> tuple[str, ...] | None:
    """Returns the class names, from `data` where the model has none."""
    classes = getattr(data, "num_classes", None)
    if isinstance(classes, int) and classes != num_classes:
        raise InputError(
            "differs from the data's number of classes",
            key="num_classes",
            found=num_classes,
            accepted=str(classes),
        )
    names = getattr(data, "class_names", None)
    if names is None:
        return class_names
    if class_names is not None and class_names != tuple(names):
        raise InputError(
            "differ from the data's class names, or are in another order",
            key="class_names",
            found=class_names,
            accepted=str(tuple(names)),
        )
    return check_classes(num_classes, names)


MOST_LOSSES = 1024  # that are kept until a step that waits for the device anyway
REMEDY = "a smaller learning rate, gradient clipping (trainer.gradient_clip_val), or other data"


class Diverged(InputError):
    """The training has diverged, which it would do again with the same settings."""


def is_logging_step(trainer: Trainer) -> bool:
    """Returns whether the trainer will hand the metrics of this step to its loggers."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    done = trainer.fit_loop.epoch_loop._batches_that_stepped
    return every > 0 and (done + 1) % every == 0


def check_loss(losses: Iterable[tuple[int, Tensor]]) -> float | None:
    """Returns the last of several losses, None without any; waits for the device."""
    found = list(losses)
    values = torch.stack([loss.float().sum() for _, loss in found]).tolist() if found else []
    for (step, _), value in zip(found, values, strict=True):
        if not math.isfinite(value):
            raise Diverged(
                f"the task's loss is not finite at step {step}, so the run has diverged",
                key="loss",
                found=value,
                accepted=REMEDY,
            )
    return values[-1] if values else None


def check_weights(trainer: Trainer, module: LightningModule) -> None:
    """Refuses trained weights that are not finite; waits for the device once."""
    named = [(n, p) for n, p in module.named_parameters() if p.is_floating_point() and p.numel()]
    # The largest magnitude, which no precision overflows; NaN is passed on.
    largest = torch._foreach_norm([p.detach() for _, p in named], math.inf) if named else ()
    if not largest:
        return
    device = largest[0].device
    fine = torch.stack([each.to(device).float() for each in largest]).isfinite().tolist()
    for (name, _), is_fine in zip(named, fine, strict=True):
        if not is_fine:
            raise Diverged(
                f"the weights {name!r} are not finite after {trainer.global_step} steps, so the "
                "run has diverged",
                key="model",
                accepted=f"{REMEDY}; the last checkpoint is left as it is",
            )


class TrainingLoss(LightningModule):
    """Mix-in for a LightningModule that logs `train/loss`, and stops where it is not finite."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recent_losses: deque[tuple[int, Tensor]] = deque(maxlen=MOST_LOSSES)

    def log_training_loss(self, loss: Tensor, rows: int) -> None:
        """Logs the mean loss over some rows as `train/loss`."""
        loss = loss.detach()
        if self._trainer is not None:
            self._recent_losses.append((self.trainer.global_step, loss))
        self.log("train/loss", loss, batch_size=rows)

    def check_loss(self) -> float | None:
        """Returns the last loss, and refuses those since the last call that are not finite."""
        losses = list(self._recent_losses)
        self._recent_losses.clear()
        return check_loss(losses)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Looks at the losses, and shows the last on progress bars, at logging steps."""
        if not is_logging_step(self.trainer):
            return
        loss = self.check_loss()
        if loss is not None:
            self.trainer.progress_bar_metrics["train/loss"] = loss

    def on_train_end(self) -> None:
        """Refuses to end as if all were well where loss or weights are not finite."""
        self.check_loss()
        check_weights(self.trainer, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to save a run that has diverged, so that the last good checkpoint stays."""
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.check_loss()
            check_weights(self.trainer, self)


# ----------------------------------------------------------------------
# What all students share: optimizer and schedule, keyed randomness, and what a checkpoint says.


CHECKPOINT_KEY = "rrr_lightning"


def micro_step(trainer: Trainer, batch_idx: int) -> tuple[int, int, int]:
    """Returns what keys the chance of one micro-batch: (optimizer step, micro-batch, rank)."""
    return trainer.global_step, batch_idx % trainer.accumulate_grad_batches, trainer.global_rank


def is_plain(value: object) -> bool:
    """Whether a value holds nothing but numbers, text, None, lists, tuples and dicts."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    return value is None or type(value) in (bool, int, float, str)


def describe_data(data: object) -> dict[str, Any] | None:
    """Returns a data module's class and those of its arguments that it keeps and that are plain.

    What an argument names, such as a tokenizer, may have its attribute; `tokenizer_name` is taken.
    """
    if data is None:
        return None
    kept = vars(data)
    arguments = {
        name: kept.get(f"{name}_name", kept.get(name))
        for name in inspect.signature(type(data).__init__).parameters
        if name in kept or f"{name}_name" in kept
    }
    plain = {name: value for name, value in arguments.items() if is_plain(value)}
    return {"class": type(data).__name__, "arguments": plain}


def _start_values(section: str, made: object, values: dict[str, Any]) -> dict[str, Any]:
    """The class of an optimizer or scheduler, and those of its values that are plain, by key."""
    plain = {name: value for name, value in values.items() if is_plain(value)}
    return {section: type(made).__name__} | {f"{section}.{name}": plain[name] for name in plain}


class StudentModule(TrainingLoss, ABC):
    """The base of this library's LightningModules.

    Args:
        learning_rate: The peak learning rate.
        weight_decay: The optimizer's weight decay.
        warmup_steps: Optimizer steps of linear warm-up; None for `warmup_fraction`.
        warmup_fraction: The same as a fraction of all steps, in [0, 1); both None for no warm-up.
        optimizer: A factory that replaces the optimizer, from parameters to optimizer.
        lr_scheduler: A factory that replaces the schedule, from optimizer to scheduler; stepped at
            every optimizer step.
        seed: The key of initial weights and in-step randomness; None for the global seed.
    """

    student_logits: ClassVar[str]
    optimizer_values: ClassVar[tuple[str, ...]] = ("learning_rate", "weight_decay")
    loss_values: ClassVar[tuple[str, ...]] = ()  # names of what else decides the training loss
    starts_trained = False  # whether all weights are trained ones before any checkpoint is loaded

    def __init__(
        self,
        *,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int | None = None,
        warmup_fraction: float | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_seed(seed, "model.seed")
        check_schedule(learning_rate, weight_decay, warmup_steps, warmup_fraction)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.warmup_fraction = warmup_fraction
        self.optimizer_factory = optimizer
        self.lr_scheduler_factory = lr_scheduler
        self.seed = global_seed(seed)

    # ------------------------------------------------------------------------------ rows

    @abstractmethod
    def logits(self, batch: Any) -> Tensor:
        """Returns the logits [N, C] of a batch that was moved to the device; used as a teacher."""

    @abstractmethod
    def schema(self) -> RowSchema:
        """Returns what the columns of the rows mean."""

    @abstractmethod
    def arguments(self) -> dict[str, Any]:
        """Returns constructor arguments in plain types that rebuild this architecture."""

    # ------------------------------------------------------------------------------ randomness

    @contextmanager
    def keyed_construction(self) -> Iterator[None]:
        """Draws initial weights on the CPU from (seed, "initial weights"), whatever ran before.

        On the meta device, where sizes are tried without memory, nothing is drawn.
        """
        is_trial = torch.empty(0).is_meta
        device = nullcontext() if is_trial else torch.device("cpu")
        with device, keyed_randomness(self.seed, "initial weights"):
            yield

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Keys dropout and its like by (seed, step, micro-batch, rank), and frees gradients early.

        Lightning lets go of the gradients of the step before after the forward pass, which then has
        to find room beside them.
        """
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            for optimizer in self.trainer.optimizers:
                self.optimizer_zero_grad(self.trainer.current_epoch, batch_idx, optimizer)
        rekey(self.seed, "step", *micro_step(self.trainer, batch_idx))

    # ------------------------------------------------------------------------------ optimization

    @abstractmethod
    def default_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Returns the recipe's optimizer over parameter groups."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Returns the parameter groups of the optimizer: here one, of all that is trained."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def configure_optimizers(self) -> Any:
        """Returns the optimizer, and its schedule stepped once per optimizer step."""
        optimizer = (self.optimizer_factory or self.default_optimizer)(self.parameter_groups())
        scheduler = (self.lr_scheduler_factory or self._default_schedule)(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def decay(self, progress: float) -> float:
        """Returns the factor of the learning rate at a share of the steps after warm-up."""
        return cosine(progress)

    def _default_schedule(self, optimizer: Optimizer) -> LambdaLR:
        # `estimated_stepping_batches` would build the loaders too early and spoil an exact resume.
        total = self.trainer.max_steps
        if total <= 0:
            raise InputError(
                "the learning rate schedule needs the number of optimizer steps",
                key="trainer.max_steps",
                found=total,
                accepted="a positive number",
            )
        warmup = self.warmup_steps or round((self.warmup_fraction or 0.0) * total)
        if warmup >= total:
            rank_zero_info(f"all {total} steps lie inside the warm-up of {warmup} steps")
        # A plain function: LambdaLR would save and restore the state of a callable object, and the
        # schedule of a run that is extended must follow its new length.
        return LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, warmup, total, self.decay)
        )

    def on_train_start(self) -> None:
        """Puts the learning rate on the curve of this run, which may outlast the checkpoint's."""
        if self._schedules_itself() and self.lr_scheduler_factory is None:
            scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
            factors = (factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas)
            groups = scheduler.optimizer.param_groups
            for group, peak, factor in zip(groups, scheduler.base_lrs, factors, strict=True):
                group["lr"] = peak * factor

    def _schedules_itself(self) -> bool:
        return type(self).configure_optimizers is StudentModule.configure_optimizers

    # ------------------------------------------------------------------------------ checkpoints

    def describe(self) -> dict[str, Any]:
        """Returns what rebuilds this network and says what its rows mean, in plain types."""
        ours = next(c for c in type(self).__mro__ if c.__module__.startswith("rrr_lightning."))
        schema = self.schema()
        normalization = schema.normalization
        return {
            "class": ours.__name__,
            "arguments": self.arguments(),
            "schema": {
                "columns": schema.columns,
                "labels": None if schema.labels is None else list(schema.labels),
                "normalization": normalization
                and {"mean": list(normalization.mean), "std": list(normalization.std)},
                "special_token_ids": schema.special_token_ids and dict(schema.special_token_ids),
            },
        }

    def training_values(self) -> dict[str, Any]:
        """Returns the values that a resumed run must share, by name: those that are in use."""
        names = ("seed", *self.loss_values)
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        if not self._schedules_itself():
            return values
        if self.optimizer_factory is None:
            values |= {name: getattr(self, name) for name in self.optimizer_values}
        if self.lr_scheduler_factory is None:
            values |= {name: getattr(self, name) for name in ("warmup_steps", "warmup_fraction")}
            values["max_steps"] = self.trainer.max_steps
        return values | self._factory_values()

    def _factory_values(self) -> dict[str, Any]:
        """What the factories make: the class, and the plain values that it starts with."""
        values: dict[str, Any] = {}
        if self.optimizer_factory is None and self.lr_scheduler_factory is None:
            return values
        optimizer = (self.optimizer_factory or self.default_optimizer)(self.parameter_groups())
        if self.optimizer_factory is not None:
            values |= _start_values("optimizer", optimizer, optimizer.defaults)
        if self.lr_scheduler_factory is not None:
            scheduler: Any = self.lr_scheduler_factory(optimizer)
            values |= _start_values("lr_scheduler", scheduler, scheduler.state_dict())
        return values

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the description, and keeps of the hyper-parameters what any process can read."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[CHECKPOINT_KEY] = {
            **self.describe(),
            "training": self.training_values(),
            "data": describe_data(getattr(self.trainer, "datamodule", None)),
        }
        hyper_parameters = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        for name in [name for name, value in hyper_parameters.items() if not is_plain(value)]:
            del hyper_parameters[name]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to go on with another seed, optimizer or schedule; `max_steps` may grow."""
        resumes = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if not resumes or CHECKPOINT_KEY not in checkpoint:
            return
        stored = checkpoint[CHECKPOINT_KEY]["training"]
        for name, value in self.training_values().items():
            if name not in stored or stored[name] == value:
                continue
            if name != "max_steps":
                raise InputError(
                    "differs from the checkpoint's",
                    key=f"model.{name}",
                    found="none" if value is None else value,
                    accepted=f"{stored[name]} as in the checkpoint, or a new run",
                )
            if value < stored[name]:
                raise InputError(
                    "is less than the checkpoint's",
                    key="trainer.max_steps",
                    found=value,
                    accepted=f"{stored[name]} as in the checkpoint, or more",
                )
