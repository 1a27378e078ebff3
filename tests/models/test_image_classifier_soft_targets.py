from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rrr_lightning.models.image_classifier import classification_loss, mix_up, soft_targets

EXACT = {"rtol": 0.0, "atol": 1e-6}
LABELS = torch.tensor([0, 3, 1, 1])


def logits() -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def test_targets_are_distributions() -> None:
    targets = soft_targets(LABELS, 5, smoothing=0.1)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4), **EXACT)
    assert targets[0].tolist() == pytest.approx([0.92, 0.02, 0.02, 0.02, 0.02])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_loss_equals_its_definition(smoothing: float) -> None:
    targets = soft_targets(LABELS, 5, smoothing)
    expected = -(targets * logits().log_softmax(dim=1)).sum(dim=1).mean()
    loss = classification_loss(logits(), LABELS, "softmax", smoothing)
    torch.testing.assert_close(loss, expected, **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_loss_sums_over_classes_and_averages_over_images(smoothing: float) -> None:
    targets = soft_targets(LABELS, 5, smoothing)
    per_class = -(targets * F.logsigmoid(logits()) + (1 - targets) * F.logsigmoid(-logits()))
    loss = classification_loss(logits(), LABELS, "binary", smoothing)
    torch.testing.assert_close(loss, per_class.sum(dim=1).mean(), **EXACT)


@pytest.mark.parametrize("kind", ["softmax", "binary"])
def test_labels_and_their_targets_give_the_same_loss(kind: str) -> None:
    hard = classification_loss(logits(), LABELS, kind, 0.1)
    soft = classification_loss(logits(), soft_targets(LABELS, 5), kind, 0.1)
    torch.testing.assert_close(hard, soft, **EXACT)


@pytest.mark.parametrize("kind", ["softmax", "binary"])
def test_the_loss_of_half_precision_logits_is_float32(kind: str) -> None:
    loss = classification_loss(logits().bfloat16(), LABELS, kind)
    assert loss.dtype == torch.float32


def test_mix_up_mixes_images_and_targets_alike() -> None:
    one_hot_images = soft_targets(LABELS, 5).view(4, 5, 1, 1)
    images, targets = mix_up(one_hot_images, LABELS, 5, 0.4, 7, "mix-up", 0)
    assert torch.equal(images.flatten(1), targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(4), **EXACT)


def test_mix_up_is_a_function_of_its_key() -> None:
    images = torch.randn(4, 3, 2, 2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, _ = mix_up(images, LABELS, 5, 0.4, 7, "mix-up", 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, _ = mix_up(images, LABELS, 5, 0.4, 7, "mix-up", 0)
    other, _ = mix_up(images, LABELS, 5, 0.4, 7, "mix-up", 1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_mix_up_shares_follow_the_beta_distribution() -> None:
    images = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    labels = torch.tensor([0, 1])
    mixed = [float(mix_up(images, labels, 2, 0.2, step)[0][0]) for step in range(2000)]
    # Half of the permutations of two leave the image alone; the others give Beta(0.2, 0.2).
    shares = torch.tensor([value for value in mixed if value != 1.0])
    variance = 1 / (4 * (2 * 0.2 + 1))
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(shares.var()) == pytest.approx(variance, abs=0.02)
