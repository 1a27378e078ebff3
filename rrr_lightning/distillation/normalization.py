"""Image statistics, and the map from one network's input to another's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rrr_lightning.errors import InputError


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
