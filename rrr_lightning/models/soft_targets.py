"""Targets that share an image between classes: label smoothing, mix-up, and losses that take them.

Suffixes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rrr_lightning.random import Part, keyed_randomness


def soft_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Returns float32 targets [B, K] for labels [B] or targets [B, K].

    Every target becomes `(1 - smoothing) * target + smoothing / K`.
    """
    targets_BK = F.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels
    if smoothing == 0:
        return targets_BK
    return targets_BK * (1 - smoothing) + smoothing / num_classes


def classification_loss(
    logits_BK: Tensor,
    labels: Tensor,
    kind: Literal["softmax", "binary"] = "softmax",
    smoothing: float = 0.0,
) -> Tensor:
    """Returns the mean loss over images, in float32."""
    logits_BK = logits_BK.float()
    if kind == "softmax":
        return F.cross_entropy(logits_BK, labels, label_smoothing=smoothing)
    targets_BK = soft_targets(labels, logits_BK.shape[1], smoothing)
    total = F.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="sum")
    return total / len(logits_BK)


def mix_up(
    images_BCHW: Tensor, labels: Tensor, num_classes: int, alpha: float, *key: Part
) -> tuple[Tensor, Tensor]:
    """Mixes every image and its target with those of another image of the batch.

    One share from Beta(alpha, alpha) for the whole batch and a permutation that says who is mixed
    with whom, both a function of the key alone.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """
    with keyed_randomness(*key):
        share = 1 - float(torch.distributions.Beta(alpha, alpha).sample())
        # Pinned, so that the host does not wait for its copy.
        partner_B = torch.randperm(len(labels), pin_memory=labels.is_cuda)
    partner_B = partner_B.to(labels.device, non_blocking=labels.is_cuda)
    targets_BK = soft_targets(labels, num_classes)
    mixed_BCHW = images_BCHW.lerp(images_BCHW[partner_B], share)
    return mixed_BCHW, targets_BK.lerp(targets_BK[partner_B], share)
