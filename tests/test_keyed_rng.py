from __future__ import annotations

import doctest
import subprocess
import sys

import pytest
import torch
from scipy import stats

from rrr_lightning import keyed_rng
from rrr_lightning.keyed_rng import (
    global_seed,
    key_seed,
    keyed_generator,
    keyed_permutation,
    keyed_randomness,
    rekey,
)

KNOWN_SEED = 5309281480833581966


def test_a_key_has_the_same_seed_on_every_platform_and_in_every_process() -> None:
    # The value is written down: a change would break the resume of runs that are under way.
    assert key_seed(17, "order", 0) == KNOWN_SEED
    code = "from rrr_lightning.keyed_rng import key_seed; print(key_seed(17, 'order', 0))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) == KNOWN_SEED


def test_keys_that_look_alike_differ() -> None:
    keys = [(1, 23), (12, 3), (1, "23"), ("1", "23"), (123,), (1, 2, 3), (), ("",), ("", "")]
    assert len({key_seed(*key) for key in keys}) == len(keys)


def test_seeds_are_non_negative_and_fit_in_63_bits() -> None:
    seeds = [key_seed("bits", i) for i in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    halves = sum(seed >= 2**62 for seed in seeds)
    assert stats.binomtest(halves, len(seeds)).pvalue > 1e-3


def test_first_numbers_of_neighbouring_keys_are_uniform() -> None:
    firsts = [torch.rand((), generator=keyed_generator(3, i)).item() for i in range(2000)]
    assert stats.kstest(firsts, "uniform").pvalue > 1e-3


def test_a_permutation_depends_on_its_key_alone() -> None:
    permutation = keyed_permutation(100, 0, "order", 1)
    assert sorted(permutation.tolist()) == list(range(100))
    assert torch.equal(permutation, keyed_permutation(100, 0, "order", 1))
    assert not torch.equal(permutation, keyed_permutation(100, 0, "order", 2))
    assert keyed_permutation(0, 0).shape == (0,)


def test_generators_and_permutations_leave_the_default_stream_alone() -> None:
    before = torch.get_rng_state()
    keyed_generator(1)
    keyed_permutation(10, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_rekey_moves_the_default_stream_to_a_key() -> None:
    with torch.random.fork_rng(devices=[]):
        rekey(5, "step", 0)
        first = torch.rand(4)
        torch.rand(3)
        rekey(5, "step", 0)
        assert torch.equal(torch.rand(4), first)
        rekey(5, "step", 1)
        assert not torch.equal(torch.rand(4), first)


def test_keyed_randomness_puts_the_stream_back_also_after_an_error() -> None:
    before = torch.get_rng_state()
    with keyed_randomness(5, "weights"):
        first = torch.rand(4)

    def fail() -> None:
        with keyed_randomness(5, "weights"):
            assert torch.equal(torch.rand(4), first)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_seed_is_lightnings_unless_one_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert global_seed(None) == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert global_seed(None) == 17
    assert global_seed(0) == 0


def test_examples_in_the_documentation_hold() -> None:
    found = doctest.testmod(keyed_rng)
    assert found.attempted > 0
    assert found.failed == 0
