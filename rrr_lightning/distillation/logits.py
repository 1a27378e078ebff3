"""What the logits [N, C] of student and teacher are, and whether both mean the same by them.

One row stands for one thing that has a target: an image, or a masked token. A `RowSchema` says what
the columns mean and which image statistics the network expects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from rrr_lightning.distillation.losses import kl_divergence
from rrr_lightning.errors import InputError

# ----------------------------------------------------------------------
# Where the masked tokens of a batch are, counted once, before the batch goes to a device.


Note = TypeVar("Note")


class TensorNotes(Generic[Note]):
    """A note by tensor; tensors made under `torch.inference_mode` cannot have any."""

    def __init__(self) -> None:
        self._notes: Any = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Note | None:
        """Returns the note on a tensor, None where there is none, or the tensor has changed."""
        version, note = self._notes.get(tensor, (None, None))
        known = not tensor.is_inference() and version == tensor._version
        return note if known else None

    def put(self, tensor: Tensor, note: Note) -> None:
        """Notes something on a tensor as it is now."""
        if not tensor.is_inference():
            self._notes[tensor] = tensor._version, note


# ----------------------------------------------------------------------
# Where the masked tokens of a batch are, found out once, and before the batch goes to a device.


NO_TARGET = -100

_places: TensorNotes[Tensor] = TensorNotes()  # by labels


@torch.compiler.disable  # type: ignore[untyped-decorator]
def masked_places(labels_BT: Tensor) -> Tensor:
    """Returns where the masked tokens are in the flattened batch, int64 of shape [N].

    On a GPU, counting them waits for the work that is queued. So it is done once for a batch, where
    possible by `carry_places` before it goes there: teacher, student and loss find what has been
    counted.
    """
    places_N = _places.of(labels_BT)
    if places_N is None:
        # What is noted in a validation step may be of use in a training step.
        with torch.inference_mode(torch.is_inference_mode_enabled() and labels_BT.is_inference()):
            places_N = (labels_BT != NO_TARGET).flatten().nonzero().squeeze(1)
        _places.put(labels_BT, places_N)
    return places_N


def carry_places(before: Any, after: Any) -> None:
    """Counts the masked tokens of a batch on the host, for the same batch on a device."""
    pair = moved_pair(before, after, "labels")
    if pair is None:
        return
    host_BT, device_BT = pair
    places_N = masked_places(host_BT)
    if device_BT.device.type == "cuda":
        places_N = places_N.pin_memory()
    _places.put(device_BT, places_N.to(device_BT.device, non_blocking=True))


def moved_pair(before: Any, after: Any, name: str) -> tuple[Tensor, Tensor] | None:
    """Returns a tensor of a batch on the host and on the device, where it can have a note there.

    That is None where it has not moved, or was not on the host, or has no version to note.
    """
    pair = [each.get(name) if isinstance(each, Mapping) else None for each in (before, after)]
    host, device = pair
    if not (isinstance(host, Tensor) and isinstance(device, Tensor)):
        return None
    has_moved = device is not host and host.device.type == "cpu"
    return (host, device) if has_moved and not device.is_inference() else None


@dataclass(frozen=True)
class Normalization:
    """The statistics that turn pixel values in [0, 1] into a network's input, per channel.

    Args:
        mean: One number per channel.
        std: One positive number per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(
                "image statistics need one mean and one std per channel",
                found=(self.mean, self.std),
            )
        if min(self.std) <= 0:
            raise InputError("a std is not positive", found=self.std, accepted="numbers above 0")


class Renormalization:
    """Images as a teacher wants them, from uint8 pixels or from the student's input.

    With pixels p in [0, 1] the student sees `x = (p - m) / s` and the teacher `(p - m') / s'`,
    which is `x * s / s' + (m - m') / s'`. For uint8 images, m = 0 and s = 1 / 255. Float images
    stay as they are where either side's statistics are unknown or both are equal.

    Args:
        teacher: The statistics that the teacher was trained with.
        student: The statistics that float images have been normalised with.
    """

    def __init__(self, teacher: Normalization | None, student: Normalization | None) -> None:
        if teacher and student and len(teacher.mean) != len(student.mean):
            raise InputError(
                "the teacher takes images of another number of channels than the student",
                found=len(teacher.mean),
                accepted=str(len(student.mean)),
            )
        self._teacher = teacher
        self._student = None if student == teacher else student
        self._maps: dict[tuple[torch.device, bool], tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """Returns images [B, C, H, W] for the teacher; other tensors are not touched."""
        raw = images.dtype == torch.uint8
        floats = self._student is not None and images.is_floating_point()
        if self._teacher is None or not (raw or floats):
            return images
        if images.ndim != 4 or images.shape[1] != len(self._teacher.mean):
            raise InputError(
                "a teacher with image statistics got something else than such images",
                found=tuple(images.shape),
                accepted=f"(batch, {len(self._teacher.mean)}, height, width)",
            )
        key = images.device, raw
        if key not in self._maps:
            self._maps[key] = self._affine(self._teacher, raw, images.device)
        scale, shift = self._maps[key]
        return images * scale + shift

    def _affine(self, to: Normalization, raw: bool, device: torch.device) -> tuple[Tensor, Tensor]:
        mean, std = _per_channel(to)
        if raw or self._student is None:
            scale, shift = 1 / (255 * std), -mean / std
        else:
            mean_before, std_before = _per_channel(self._student)
            scale, shift = std_before / std, (mean_before - mean) / std
        return scale.float().to(device), shift.float().to(device)


def _per_channel(statistics: Normalization) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)
        for values in (statistics.mean, statistics.std)
    )
    return mean, std


# ----------------------------------------------------------------------
# What the columns of a network's rows mean, and whether two networks mean the same by them.


_WORDNET = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"(?:label_|class_)?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class RowSchema:
    """What is known of a network's rows and of its input; None stands for unknown.

    Args:
        columns: The number of classes, or the size of the vocabulary.
        labels: Class names, or the tokens of the vocabulary, in the order of the columns.
        normalization: The image statistics that the network was trained with.
        special_token_ids: For text, the ids of the special tokens by name, such as `mask_token`.
        input_vocabulary: Where columns are classes of texts, a fingerprint of the tokens that the
            ids in a batch stand for.
    """

    columns: int | None = None
    labels: tuple[str, ...] | None = None
    normalization: Normalization | None = None
    special_token_ids: Mapping[str, int] | None = None
    input_vocabulary: str | None = None


def check_schema(student: RowSchema, teacher: RowSchema, key: str) -> None:
    """Refuses a teacher whose columns do not mean what the student's columns mean."""
    if None not in (student.columns, teacher.columns) and student.columns != teacher.columns:
        raise InputError(
            "the teacher has another number of columns (classes or vocabulary) than the student",
            key=key,
            found=teacher.columns,
            accepted=str(student.columns),
        )
    if None not in (student.input_vocabulary, teacher.input_vocabulary) and (
        student.input_vocabulary != teacher.input_vocabulary
    ):
        raise InputError(
            "the teacher reads another vocabulary than the student",
            key=key,
            accepted="a teacher that was trained with the student's tokenizer",
        )
    ours, theirs = dict(student.special_token_ids or {}), dict(teacher.special_token_ids or {})
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name] != theirs[name]:
            raise InputError(
                f"the teacher's {name} has another id than the student's",
                key=key,
                found=theirs[name],
                accepted=str(ours[name]),
            )
    if student.labels is None or teacher.labels is None:
        return
    if ours or theirs:
        _check_tokens(student.labels, teacher.labels, key)
    else:
        _check_class_names(student.labels, teacher.labels, key)


def columns_in_order(student: RowSchema, teacher: RowSchema, key: str) -> tuple[int, ...]:
    """Returns the teacher's columns in the order of the student's classes.

    >>> columns_in_order(RowSchema(labels=("cat", "dog")), RowSchema(labels=("dog", "cat")), "")
    (1, 0)
    """
    if student.labels is None or teacher.labels is None or teacher.special_token_ids:
        raise InputError(
            "classes can be reordered where student and teacher name them",
            key=key,
            found="student: {}, teacher: {}".format(
                *("no names" if side.labels is None else "names" for side in (student, teacher))
            ),
            accepted="class_names in the data or the model, and in the teacher's mapping",
        )
    found: list[int] = []
    for ours in student.labels:
        same = [n for n, theirs in enumerate(teacher.labels) if ours == theirs] or [
            n for n, theirs in enumerate(teacher.labels) if _same_class(ours, theirs, None)
        ]
        if len(same) != 1 or same[0] in found or len(student.labels) != len(teacher.labels):
            raise InputError(
                "the teacher's classes are not the student's in another order",
                key=key,
                found=f"{len(teacher.labels)} classes, {len(same)} of which are {ours!r}",
                accepted=f"the {len(student.labels)} classes of the student",
            )
        found += same
    return tuple(found)


def _check_tokens(student: tuple[str, ...], teacher: tuple[str, ...], key: str) -> None:
    if student == teacher:
        return
    if len(student) != len(teacher):
        raise InputError(
            "the teacher's vocabulary has another size than the student's",
            key=key,
            found=len(teacher),
            accepted=str(len(student)),
        )
    differ = [i for i, pair in enumerate(zip(student, teacher, strict=True)) if pair[0] != pair[1]]
    raise InputError(
        f"the teacher has another vocabulary of the same size: {len(differ)} tokens differ, "
        f"the first with id {differ[0]}",
        key=key,
        found=teacher[differ[0]],
        accepted=repr(student[differ[0]]),
    )


def _check_class_names(student: tuple[str, ...], teacher: tuple[str, ...], key: str) -> None:
    if len(student) != len(teacher):
        raise InputError(
            "the teacher names another number of classes than the student",
            key=key,
            found=len(teacher),
            accepted=str(len(student)),
        )
    wordnet = [all(_WORDNET.fullmatch(name) for name in names) for names in (student, teacher)]
    if wordnet[0] != wordnet[1] and len(student) == 1000:
        # ImageNet's own order is that of its sorted WordNet ids, whatever the names of the others.
        ids = student if wordnet[0] else teacher
        if list(ids) == sorted(ids):
            return
    for column, (ours, theirs) in enumerate(zip(student, teacher, strict=True)):
        if not _same_class(ours, theirs, column):
            elsewhere = any(_same_class(ours, name, None) for name in teacher)
            raise InputError(
                f"the teacher's class names are {'in another order' if elsewhere else 'others'} "
                f"than the student's, first in column {column}",
                key=key,
                found=theirs,
                accepted=repr(ours),
            )


def _same_class(ours: str, theirs: str, column: int | None) -> bool:
    """Whether two names mean one class; a bare number means only "the class of this column"."""
    numbers = [_NUMBER.fullmatch(name.strip()) for name in (ours, theirs)]
    if any(numbers):
        if all(numbers) or column is None:
            values = [int(number.group(1)) for number in numbers if number]
            return len(values) == 2 and values[0] == values[1]
        return all(int(number.group(1)) == column for number in numbers if number)
    first, second = _synonyms(ours), _synonyms(theirs)
    return (
        not first.isdisjoint(second)
        or any(a.startswith(f"{b} ") for a in first for b in second)
        or any(b.startswith(f"{a} ") for a in first for b in second)
    )


def _synonyms(name: str) -> set[str]:
    words = re.sub(r"[_\-\s]+", " ", name.casefold())
    return {part.strip() for part in words.split(",")} | {" ".join(words.replace(",", " ").split())}


# ----------------------------------------------------------------------
# Rows: the logits `[N, C]` that student and teacher have in common, one row per target.


def as_rows(output: Any, batch: Any, whose: str, key: str) -> Tensor:
    """Returns the rows [N, C] in what a network returned for a batch.

    Logits [B, T, V] for a dict batch with `labels` [B, T] become the rows of the tokens whose label
    is not -100.
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits")
    elif not isinstance(output, Tensor | list) and type(output) is not tuple:
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the output of {whose} holds no logits",
            key=key,
            found=type(output).__name__,
            accepted="a tensor, or a mapping or a named tuple with logits (a bare tuple may start "
            "with the loss)",
        )
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if logits.ndim == 3 and isinstance(labels, Tensor) and labels.shape == logits.shape[:2]:
        logits = logits.flatten(0, 1).index_select(0, masked_places(labels))
    if logits.ndim != 2:
        raise InputError(
            f"the logits of {whose} are not rows",
            key=key,
            found=tuple(logits.shape),
            accepted="two dimensions, rows and columns",
        )
    return logits


def check_rows(rows: Tensor, schema: RowSchema, key: str, finite: bool = False) -> None:
    """Refuses a teacher's rows from which no student can learn.

    A logit of -inf rules a class out; a row must leave at least one.
    """
    if rows.ndim != 2:
        raise InputError(
            "the teacher's logits are not rows",
            key=key,
            found=tuple(rows.shape),
            accepted="two dimensions, rows and columns",
        )
    if schema.columns is not None and rows.shape[1] != schema.columns:
        raise InputError(
            "the teacher's rows have another number of columns (classes or vocabulary) than the "
            "student's",
            key=key,
            found=rows.shape[1],
            accepted=str(schema.columns),
        )
    bad = int((~rows.amax(dim=1).isfinite()).sum())
    if bad:
        raise InputError(
            f"{bad} of {len(rows)} rows of the teacher hold NaN or infinity, or nothing but -inf",
            key=key,
            accepted="finite numbers, or -inf for classes that are ruled out",
        )
    bad = int((rows.amin(dim=1) == -torch.inf).sum()) if finite else 0
    if bad:
        raise InputError(
            f"{bad} of {len(rows)} rows of the teacher hold -inf, which the loss does not take",
            key=key,
            accepted="finite numbers for LogitMSE, the reverse divergence and stored targets; the "
            "forward divergence and SoftCrossEntropy take -inf of a live teacher",
        )


@torch.no_grad()
def compare_rows(rows: Tensor, others: Tensor) -> Tensor:
    """Returns how far two versions of the same rows [N, C] lie apart, as sums over rows.

    Rows of one column are scores, which have no classes: they count as means of normal
    distributions of variance 1, so that their divergence is half the squared difference.
    """
    same = (rows.argmax(dim=1) == others.argmax(dim=1)).sum()
    if rows.shape[1] == 1:
        divergence = (rows.float() - others.float()).square().sum() / 2
    else:
        divergence = kl_divergence(others, rows) * len(rows)
    return torch.stack([same.float(), divergence, divergence.new_tensor(len(rows))])
