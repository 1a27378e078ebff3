"""Which tokens of a document are masked: a function of (seed, epoch, index, position).

Every position has a random number of its own, computed from its key by a counter-based hash, for a
whole batch in a few array operations. So the masks of a document depend neither on the batch that
it is in, nor on workers, ranks or a resume, and they are others in every epoch.

Suffixes: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from rrr_lightning.data.sampling import Key
from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import key_seed

NO_TARGET = -100
VALIDATION_PROBABILITY = 0.15
TO_MASK, TO_RANDOM = 0.8, 0.1  # the rest, a tenth, stays as it is

Words = npt.NDArray[np.uint64]
Tokens = npt.NDArray[np.int64]

# SplitMix64: the n-th number of a stream is a mix of (state + n * STRIDE).
# Source: Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
_STRIDE, _MULTIPLIER_1, _MULTIPLIER_2 = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_HALF = np.uint64(32)


def mix(words: Words) -> Words:
    """Returns a scrambled copy of 64-bit words; the map is one to one."""
    words = (words ^ (words >> np.uint64(30))) * _MULTIPLIER_1
    words = (words ^ (words >> np.uint64(27))) * _MULTIPLIER_2
    mixed: Words = words ^ (words >> np.uint64(31))
    return mixed


def random_words(seed: int, keys: Sequence[Key], length: int) -> Words:
    """Returns 64 random bits for each position of each sample."""
    pairs = np.array(keys, dtype=np.uint64).reshape(-1, 2)
    state = mix(np.full(len(pairs), seed, dtype=np.uint64) + (pairs[:, 0] + np.uint64(1)) * _STRIDE)
    state = mix(state + (pairs[:, 1] + np.uint64(1)) * _STRIDE)
    return mix(state[:, None] + np.arange(1, length + 1, dtype=np.uint64) * _STRIDE)


def check_probability(probability: float) -> None:
    """Refuses what is not the probability of a mask."""
    if not 0 < probability < 1:
        raise InputError(
            "out of range",
            key="data.mask_probability",
            found=probability,
            accepted="a number between 0 and 1, both excluded",
        )


class Masking:
    """Chooses tokens as targets and hides most of them; special tokens are never chosen.

    Of the chosen tokens 80 % become the mask token, 10 % a random token that is not special, and
    10 % stay.

    Args:
        vocabulary_size: The number of tokens.
        special_ids: The ids that are never chosen, that of padding among them.
        mask_id: The id of the mask token.
        probability: The probability with which a token is chosen, in (0, 1).
        seed: The seed of the masks.

    Raises:
        InputError: `probability` is not between 0 and 1.
    """

    def __init__(
        self,
        vocabulary_size: int,
        special_ids: Collection[int],
        mask_id: int,
        probability: float = VALIDATION_PROBABILITY,
        seed: int = 0,
    ) -> None:
        check_probability(probability)
        self.mask_id = mask_id
        self.probability = probability
        self._seeds = key_seed(seed, "mask"), key_seed(seed, "random token")
        self._ordinary = np.ones(vocabulary_size, dtype=bool)
        self._ordinary[list(special_ids)] = False
        self._replacements = np.flatnonzero(self._ordinary)

    def __call__(self, ids_BT: Tokens, keys: Sequence[Key]) -> tuple[Tokens, Tokens]:
        """Returns the input and the labels of a batch."""
        words_BT = random_words(self._seeds[0], keys, ids_BT.shape[1])
        choice_BT, fate_BT = words_BT >> _HALF, words_BT & np.uint64(2**32 - 1)
        threshold = np.uint64(round(self.probability * 2**32))
        chosen_BT = self._ordinary[ids_BT] & (choice_BT < threshold)
        labels_BT = np.where(chosen_BT, ids_BT, NO_TARGET)
        to_mask, to_random = (round(part * 2**32) for part in (TO_MASK, TO_MASK + TO_RANDOM))
        inputs_BT = np.where(chosen_BT & (fate_BT < np.uint64(to_mask)), self.mask_id, ids_BT)
        random_BT = chosen_BT & (fate_BT >= np.uint64(to_mask)) & (fate_BT < np.uint64(to_random))
        if random_BT.any():
            draws = random_words(self._seeds[1], keys, ids_BT.shape[1])[random_BT] >> _HALF
            places = (draws * np.uint64(len(self._replacements))) >> _HALF
            inputs_BT[random_BT] = self._replacements[places.astype(np.int64)]
        return inputs_BT, labels_BT
