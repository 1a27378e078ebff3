from __future__ import annotations

import numpy as np
import pytest
import torch

from rrr_lightning.data.masking import NO_TARGET, Masking, Tokens, random_words
from rrr_lightning.errors import InputError

VOCABULARY, SPECIAL, MASK = 1000, (0, 1, 2, 3, 4), 4


def ids(rows: int, length: int = 128) -> Tokens:
    """Rows as a tokenizer gives them: a special token at either end, some padding, all tokens."""
    generator = torch.Generator().manual_seed(1)
    made = torch.randint(5, VOCABULARY, (rows, length), generator=generator).numpy()
    made[:, 0], made[:, -1] = 2, 3
    made[::3, length // 2 :] = 0
    return made


def keys(rows: int, epoch: int = 0) -> list[tuple[int, int]]:
    return [(epoch, index) for index in range(rows)]


def masking(seed: int = 7, probability: float = 0.15) -> Masking:
    return Masking(VOCABULARY, SPECIAL, MASK, probability, seed)


@pytest.mark.parametrize("probability", [0.15, 0.3])
def test_statistics_over_a_million_tokens(probability: float) -> None:
    tokens = ids(10_000)
    inputs, labels = masking(probability=probability)(tokens, keys(10_000))
    ordinary = tokens >= 5
    assert ordinary.sum() > 1_000_000
    chosen = labels != NO_TARGET
    assert not chosen[~ordinary].any()
    assert (inputs[~chosen] == tokens[~chosen]).all()
    assert (labels[chosen] == tokens[chosen]).all()

    def close(part: float, whole: int, expected: float) -> None:  # within 5 standard deviations
        assert abs(part / whole - expected) < 5 * (expected * (1 - expected) / whole) ** 0.5

    count = int(chosen.sum())
    close(count, int(ordinary.sum()), probability)
    masked, kept = inputs[chosen] == MASK, inputs[chosen] == tokens[chosen]
    close(masked.sum(), count, 0.8)
    close(kept.sum(), count, 0.1 + 0.1 / (VOCABULARY - 5))
    others = inputs[chosen][~masked & ~kept]
    assert others.min() >= 5
    counts = np.bincount(others, minlength=VOCABULARY)[5:]
    expected = counts.sum() / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 1150  # 994 degrees of freedom: above 1,140 once in a thousand
    by_place = chosen.sum(axis=0)[1:64] / (tokens[:, 1:64] >= 5).sum(axis=0)
    assert np.abs(by_place - probability).max() < 0.025


def test_the_masks_of_a_sample_do_not_depend_on_its_batch() -> None:
    tokens, whole = ids(64), keys(64, epoch=3)
    inputs, labels = masking()(tokens, whole)
    order = np.random.default_rng(0).permutation(64)
    for rows in (order[:1], order[:7], order):
        part = masking()(tokens[rows], [whole[row] for row in rows])
        assert (part[0] == inputs[rows]).all()
        assert (part[1] == labels[rows]).all()
    shorter = masking()(tokens[:, :50], whole)
    assert (shorter[1] == labels[:, :50]).all()


def test_masks_differ_between_epochs_seeds_and_samples() -> None:
    tokens = ids(200)[1::3]
    rows = len(tokens)
    first = masking()(tokens, keys(rows))[1] != NO_TARGET
    for other in (
        masking()(tokens, keys(rows, epoch=1)),
        masking(seed=8)(tokens, keys(rows)),
        masking()(tokens, [(0, index + 1) for index in range(rows)]),
    ):
        overlap = (first & (other[1] != NO_TARGET)).sum() / first.sum()
        assert abs(overlap - 0.15) < 0.05  # what chance gives


def test_numbers_of_neighbouring_keys_are_independent() -> None:
    words = random_words(1, [(epoch, index) for epoch in range(40) for index in range(40)], 64)
    assert len(np.unique(words)) == words.size
    units = words.astype(np.float64) / 2**64
    for left, right in ((units[:-1], units[1:]), (units[:, :-1], units[:, 1:])):
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 0.015
    bits = np.unpackbits(words.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.001


def test_the_numbers_are_the_same_on_every_machine() -> None:
    words = random_words(0, [(0, 0), (5, 2**62)], 2)
    assert words.tolist() == [
        [2558736989570252433, 17913671590881668180],
        [13896720047518080276, 11692412247431320581],
    ]


def test_a_batch_of_special_tokens_has_no_targets() -> None:
    tokens = np.full((4, 8), 3)
    inputs, labels = masking()(tokens, keys(4))
    assert (inputs == tokens).all()
    assert (labels == NO_TARGET).all()


@pytest.mark.parametrize("probability", [0.0, 1.0, -0.1, 15, float("nan")])
def test_probabilities_outside_of_0_to_1_are_refused(probability: float) -> None:
    line = r"data.mask_probability: out of range; found .*; accepted: a number between 0 and 1"
    with pytest.raises(InputError, match=line):
        masking(probability=probability)
