"""Tries every teacher on real samples before the first step.

Shapes and class names can agree while a teacher is useless: half-loaded, fed with other statistics,
or with its labels in another order. A few hundred samples tell, if they are drawn over the whole
validation set: the first ones of an image folder are all of one class.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from rrr_lightning.callbacks.teacher_loading import cheapen_teacher
from rrr_lightning.distillation.logits import NO_TARGET, RowSchema
from rrr_lightning.distillation.teacher import Precision, Teacher, check_rows
from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import keyed_permutation

MOST_SAMPLES = 512  # the standard error of an accuracy is then at most 0.022
# Their indices are those of the data set.
_PLAIN_SAMPLERS = (
    SequentialSampler,
    RandomSampler,
    DistributedSampler,
    UnrepeatedDistributedSampler,
)

logger = logging.getLogger(__name__)


def refuse_own_tokens(batch: Any) -> None:
    """Refuses token labels that are the input itself, which a causal language model shifts."""
    if isinstance(batch, Mapping):
        tokens, labels = batch.get("input_ids"), batch.get("labels")
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        tokens, labels = batch
    else:
        return
    if (
        not isinstance(tokens, Tensor)
        or not isinstance(labels, Tensor)
        or tokens.is_floating_point()
    ):
        return
    if tokens.ndim != 2 or tokens.shape != labels.shape:
        return
    labelled = labels != NO_TARGET
    if labelled.sum() >= 8 and torch.equal(tokens[labelled], labels[labelled]):
        raise InputError(
            "the labels of the batch are its own tokens, as a causal language model takes them: "
            "its logits belong to the next token, and would be distilled one token off",
            key="model",
            found=f"labels {tuple(labels.shape)}",
            accepted="labels of a masked language model, or labels that are shifted in the data",
        )


class TeacherProbe:
    """Refuses teachers with bad rows or too low an accuracy.

    On the first batch, teachers loaded from specs are made cheaper afterwards.

    Args:
        teachers: Teachers placed by `place_teachers`.
        columns: Number of columns of the student's rows where it is known.
        min_accuracy: Fraction in [0, 1]; None refuses no accuracy, but a teacher that is no better
            than chance is named in a warning.
        precision: What teachers are held in; None for the default.
        compiled: Whether those that are made cheaper are compiled too.
        finite: Whether the loss takes no logit of -inf.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        columns: int | None,
        min_accuracy: float | None,
        precision: Precision | None,
        compiled: bool,
        finite: bool = False,
    ) -> None:
        self._finite = finite
        self._waiting = list(teachers)
        self._schema = RowSchema(columns=columns)
        self._min_accuracy = min_accuracy
        self._precision = precision
        self._compiled = compiled

    @property
    def columns(self) -> int | None:
        """The number of columns of all rows, once it is known."""
        return self._schema.columns

    @property
    def is_done(self) -> bool:
        """Whether every teacher has been tried."""
        return not self._waiting

    def run_on_validation(self, trainer: Trainer) -> None:
        """Runs on validation samples, if there are any.

        A training batch would be augmented, and judge a teacher too low.
        """
        if not trainer.enable_validation:
            return
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
        loaders = trainer.val_dataloaders
        while isinstance(loaders, Sequence | Mapping):
            loaders = next(iter(loaders.values() if isinstance(loaders, Mapping) else loaders), ())
            if loaders == ():
                return
        if loaders is None:
            return
        with isolate_rng():
            batches, what = validation_batches(loaders)
            self.run(trainer, (_moved(trainer, each) for each in batches), what, is_final=False)

    def run_on_training(self, trainer: Trainer, batch: Any, is_final: bool = True) -> None:
        """Runs those teachers on a training batch that have not been tried yet."""
        self.run(trainer, [batch], "a training batch", is_final)

    def run(
        self, trainer: Trainer, batches: Iterable[Any], what: str, is_final: bool = True
    ) -> None:
        """Runs every teacher that has not been tried yet, on as many batches as it takes."""
        if not self._waiting:
            return
        trials = [Trial(teacher) for teacher in self._waiting]
        self._waiting = []
        for number, batch in enumerate(batches):
            if number == 0:
                refuse_own_tokens(batch)
            for trial in list(trials):
                try:
                    rows = _try(trial.teacher, batch)
                except InputError:
                    if is_final or trial.first is not None:
                        raise
                    self._waiting.append(trial.teacher)
                    trials.remove(trial)
                    continue
                check_rows(rows, self._schema, trial.teacher.key, self._finite)
                self._schema = RowSchema(columns=rows.shape[1])  # of a foreign student too
                trial.take(batch, rows)
            if all(trial.is_done for trial in trials):
                break
        for trial in trials:
            if trial.first is None:  # there was no batch
                self._waiting.append(trial.teacher)
                continue
            self._judge(trainer, trial, what)
            batch, rows = trial.first
            cheapen_teacher(trial.teacher, batch, rows, trainer, self._precision, self._compiled)

    def _judge(self, trainer: Trainer, trial: Trial, what: str) -> None:
        minimum, teacher = self._min_accuracy, trial.teacher
        if not trial.judged:
            if minimum is not None:
                raise InputError(
                    "no accuracy of a teacher: the batch has no targets of its rows",
                    key="distillation.teacher_min_accuracy",
                    found=minimum,
                    accepted="null, or batches (inputs, labels) or with `labels`",
                )
            return
        counts = torch.stack([trial.right, torch.full_like(trial.right, trial.judged)])
        right, total = trainer.strategy.reduce(counts, reduce_op="mean").tolist()
        accuracy, count = right / total, round(total)
        error = math.sqrt(accuracy * (1 - accuracy) / total)
        found = f"{accuracy:.1%} (standard error {error:.1%}) of {count} rows of {what}"
        if minimum is not None and accuracy < minimum:
            raise InputError(
                f"the teacher {teacher.name!r} is right on {found}",
                key=teacher.key,
                accepted=f"at least {minimum:.1%} (distillation.teacher_min_accuracy)",
            )
        chance = 1 / (self._schema.columns or 1)
        if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / total):
            logger.warning(
                "%s: the teacher %r is right on %s, which is no better than chance",
                teacher.key,
                teacher.name,
                found,
            )


class Trial:
    """What a teacher has answered so far.

    Attributes:
        first: The first batch and its rows.
        right: The number of rows whose top class is the target; float64, on the device.
        judged: The number of rows with a target.
        is_done: Whether further batches would tell nothing more.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher
        self.first: tuple[Any, Tensor] | None = None
        self.right = torch.zeros(())
        self.judged = 0
        self.is_done = False

    def take(self, batch: Any, rows: Tensor) -> None:
        """Counts the rows of a batch."""
        if self.first is None:
            self.first = batch, rows
            self.right = self.right.to(rows.device)
        if self.is_done:
            return
        targets = _targets(batch, rows)
        if targets is not None:
            self.right = self.right + (rows.argmax(dim=1) == targets).sum()
            self.judged += len(targets)
        self.is_done = targets is None or self.judged >= MOST_SAMPLES


def validation_batches(loader: Any) -> tuple[Iterator[Any], str]:
    """Returns batches on the CPU to judge teachers on, and what to call them in messages.

    Up to 512 samples drawn by key over the whole data set, the same on all ranks, where samples
    can be fetched by index as the loader does; or else the loader's batches in its order.
    """
    found = _fetched(loader)
    if found is None:
        return _first_batches(loader), "the first validation batches"
    length, size, fetch = found
    chosen = keyed_permutation(length, "teacher check")[:MOST_SAMPLES].tolist()
    parts = (chosen[start : start + size] for start in range(0, len(chosen), size))
    return map(fetch, parts), "validation samples drawn at random"


def _fetched(loader: Any) -> tuple[int, int, Callable[[list[int]], Any]] | None:
    """The length of a loader's data set, its batch size, and what makes a batch of indices."""
    if callable(getattr(loader, "fetch", None)):  # of a data module of ours
        return len(loader.dataset), loader.batches.batch_size, loader.fetch
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or loader.worker_init_fn is not None
        or type(loader.sampler) not in _PLAIN_SAMPLERS
        or type(loader.batch_sampler) is not BatchSampler
    ):
        return None
    dataset: Any = loader.dataset

    def fetch(indices: list[int]) -> Any:
        whole = getattr(dataset, "__getitems__", None)
        return loader.collate_fn(whole(indices) if whole else [dataset[each] for each in indices])

    return len(dataset), loader.batch_sampler.batch_size, fetch


def _first_batches(loader: Any) -> Iterator[Any]:
    """The batches of a loader, which is left as it was; none of one that can be read only once."""
    generator = getattr(loader, "generator", None)
    state = None if generator is None else generator.get_state()
    batches = iter(loader)
    if batches is loader:
        return
    try:
        yield from batches
    finally:
        if generator is not None:
            generator.set_state(state)


def _moved(trainer: Trainer, batch: Any) -> Any:
    """A batch on the device, as in validation."""
    stage = trainer.state.stage
    trainer.sanity_checking = True  # so that the module prepares it as in validation
    try:
        batch = trainer.precision_plugin.convert_input(batch)
        batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    finally:
        trainer.state.stage = stage


def _try(teacher: Teacher, batch: Any) -> Tensor:
    """Returns a teacher's rows; whatever the network raises on its first batch is named."""
    with named_failures(teacher, batch):
        return teacher.logits(batch)


@contextmanager
def named_failures(teacher: Teacher, batch: Any) -> Iterator[None]:
    """Turns whatever a network raises on a batch into a line with what it was called with."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"the teacher {teacher.name!r} fails on a batch of the student ({reason})",
            key=teacher.key,
            found=_shapes(batch),
            accepted="a network for such batches, or distillation.teacher_inputs, a function from "
            "the batch to the teacher's input that resizes images (torch.nn.functional.interpolate)"
            ", cuts sequences or casts; image statistics (mean, std) of a teacher for images of "
            "8-bit integers",
        ) from error


def _shapes(batch: Any) -> str:
    """The shapes and dtypes of what a teacher is called with by default."""
    if isinstance(batch, Mapping):
        return ", ".join(f"{name} {_shapes(value)}" for name, value in batch.items())
    if isinstance(batch, tuple | list) and batch:
        return _shapes(batch[0])
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')}"
    return type(batch).__name__


def _targets(batch: Any, rows: Tensor) -> Tensor | None:
    """Returns the class of each row, shape [N], where the batch says so in a usual way."""
    if rows.shape[1] == 1:  # scores: there are no classes
        return None
    if isinstance(batch, Mapping):
        labels = batch.get("labels", batch.get("label"))
    else:
        labels = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if not isinstance(labels, Tensor):
        return None
    if labels.is_floating_point():  # soft targets, such as those of mix-up
        labels = labels.argmax(dim=1) if labels.shape == rows.shape else torch.full((0,), -100)
    labels = labels[labels != -100]
    return labels if labels.shape == rows.shape[:1] else None
