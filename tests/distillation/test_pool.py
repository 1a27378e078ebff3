from __future__ import annotations

import doctest
import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from scipy import stats

from rrr_lightning.distillation import pool as module
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.errors import InputError

STEPS = 4000
SMALLEST_P = 1e-3  # the draws are fixed by their keys: this cannot fail by chance, only by a change


def draws(pool: TeacherPool, teachers: int, rank: int = 0) -> list[tuple[int, ...]]:
    return [pool.draw(step, teachers, rank) for step in range(STEPS)]


@pytest.mark.parametrize("per_rank", [False, True])
@pytest.mark.parametrize("seed", [0, 17])
def test_single_draws_are_uniform(seed: int, per_rank: bool) -> None:
    counts = Counter(draws(TeacherPool(seed=seed, per_rank=per_rank), 8))
    assert stats.chisquare([counts[(i,)] for i in range(8)]).pvalue > SMALLEST_P


def test_draws_of_neighbouring_steps_are_independent() -> None:
    drawn = draws(TeacherPool(), 4)
    pairs = Counter(itertools.pairwise(drawn))
    counts = [pairs[((a,), (b,))] for a in range(4) for b in range(4)]
    assert stats.chisquare(counts).pvalue > SMALLEST_P


def test_all_subsets_are_equally_likely_and_without_replacement() -> None:
    counts = Counter(draws(TeacherPool(per_step=2), 4))
    subsets = list(itertools.combinations(range(4), 2))
    assert set(counts) == set(subsets)
    assert stats.chisquare([counts[subset] for subset in subsets]).pvalue > SMALLEST_P


def test_sampling_weights_set_how_often_a_teacher_is_drawn() -> None:
    counts = Counter(draws(TeacherPool(weights=[1.0, 2.0, 0.0, 5.0]), 4))
    assert counts[(2,)] == 0
    observed = [counts[(i,)] for i in (0, 1, 3)]
    expected = [STEPS * share / 8 for share in (1, 2, 5)]
    assert stats.chisquare(observed, expected).pvalue > SMALLEST_P


def test_weighted_draws_of_two_follow_one_after_the_other() -> None:
    # Without replacement: P{a, b} = p_a p_b / (1 - p_a) + p_b p_a / (1 - p_b).
    chances = [0.5, 0.3, 0.2]
    counts = Counter(draws(TeacherPool(per_step=2, weights=chances), 3))
    subsets = list(itertools.combinations(range(3), 2))
    expected = [
        STEPS * chances[a] * chances[b] * (1 / (1 - chances[a]) + 1 / (1 - chances[b]))
        for a, b in subsets
    ]
    assert stats.chisquare([counts[s] for s in subsets], expected).pvalue > SMALLEST_P


def test_all_asks_everyone_and_so_does_a_number_equal_to_the_pool() -> None:
    assert TeacherPool(per_step="all").draw(3, 5) == (0, 1, 2, 3, 4)
    assert TeacherPool(per_step=3).draw(3, 3) == (0, 1, 2)
    assert TeacherPool().draw(3, 1) == (0,)


def test_a_draw_is_a_function_of_seed_and_step_alone() -> None:
    pool = TeacherPool(per_step=2)
    expected = draws(pool, 6)
    torch.manual_seed(1)
    assert [pool.draw(step, 6) for step in reversed(range(STEPS))] == expected[::-1]
    assert draws(TeacherPool(per_step=2, seed=1), 6) != expected


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    TeacherPool().draw(0, 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_all_ranks_draw_the_same_unless_each_draws_for_itself() -> None:
    assert draws(TeacherPool(), 8, rank=0) == draws(TeacherPool(), 8, rank=3)
    alone = TeacherPool(per_rank=True)
    first, second = draws(alone, 8, rank=0), draws(alone, 8, rank=1)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    assert stats.binomtest(same, STEPS, 1 / 8).pvalue > SMALLEST_P


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"per_step": 0}, "per_step"),
        ({"per_step": -1}, "per_step"),
        ({"per_step": 1.5}, "per_step"),
        ({"per_step": True}, "per_step"),
        ({"per_step": "every"}, "per_step"),
        ({"combine": "median"}, "combine"),
        ({"weights": []}, "weights"),
        ({"weights": [1.0, -1.0]}, "weights"),
        ({"weights": [1.0, math.nan]}, "weights"),
        ({"weights": [1.0, math.inf]}, "weights"),
        ({"weights": [0.0, 0.0]}, "weights"),
        ({"weights": [1.0, 0.0], "per_step": 2}, "weights"),
        ({"weights": [1.0, 2.0], "per_step": "all"}, "weights"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=rf"^distillation\.pool\.{key}: .*accepted: "):
        TeacherPool(**arguments)


def test_a_pool_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match=r"^distillation\.pool\.per_step: .*number of teachers, 2"):
        TeacherPool(per_step=3).check(2)
    with pytest.raises(InputError, match=r"per_step.*number of teachers, 0"):
        TeacherPool().check(0)
    with pytest.raises(InputError, match=r"^distillation\.pool\.weights: .*3 in all"):
        TeacherPool(weights=[1.0, 1.0]).check(3)
    with pytest.raises(InputError, match="number of teachers"):
        TeacherPool(per_step=3).draw(0, 2)


def test_examples_in_the_documentation_hold() -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
