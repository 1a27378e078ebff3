"""Operations are counted as PyTorch and a pencil count them, eager or compiled."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from rrr_lightning.callbacks._compiled import counter_of
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.models.masked_rows import MaskedRows
from rrr_lightning.models.networks import build_network

B, T, H, F, V = 2, 10, 16, 32, 40  # batch, tokens, hidden, feed-forward, vocabulary


def convolution(inputs: int, outputs: int, kernel: int, side: int) -> int:
    return 2 * B * inputs * outputs * kernel**2 * side**2


def resnet8_by_hand(backward: bool) -> int:
    """Operations of `cifar_resnet8` on 8 x 8 pixels: widths 16, 32, 64, one block of two each."""
    first = convolution(3, 16, 3, 8)
    rest = 2 * convolution(16, 16, 3, 8)
    for inputs, outputs, side in ((16, 32, 4), (32, 64, 2)):
        rest += convolution(inputs, outputs, 3, side) + convolution(outputs, outputs, 3, side)
    rest += 2 * B * 64 * 10
    # Gradients of weights and inputs cost as much as the forward; the images need none.
    return 3 * rest + 2 * first if backward else rest + first


def bert_by_hand(masked: int, backward: bool) -> int:
    """Operations of one layer, and of the head on the masked positions alone."""
    tokens = B * T
    products = 2 * tokens * (4 * H * H + 2 * H * F) + 2 * masked * (H * H + H * V)
    attention = 2 * 2 * B * T * T * H
    if not backward:
        return products + attention
    return 3 * products + attention + attention * 5 // 2  # the backward computes the scores again


def images() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(B, 3, 8, 8), torch.arange(B)


def texts() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(5, V, (B, T), generator=generator)
    labels = torch.full((B, T), -100)
    labels[:, 2], labels[0, 5] = ids[:, 2], ids[0, 5]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return build_network("cifar_resnet8", 10, small_images=True)


def bert(dropout: float = 0.0) -> MaskedRows:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=V,
        hidden_size=H,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=F,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return MaskedRows(BertForMaskedLM(config).train(), V)


def rows_of(network: Any, batch: Any) -> Tensor:
    rows: Tensor = network.rows(batch) if isinstance(network, MaskedRows) else network(batch[0])
    return rows


CASES = [
    pytest.param(resnet, images, resnet8_by_hand, id="resnet"),
    pytest.param(bert, texts, lambda backward: bert_by_hand(3, backward), id="bert"),
]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("build", "make_batch", "by_hand"), CASES)
def test_a_step_costs_what_a_pencil_says(
    build: Callable[[], Any],
    make_batch: Callable[[], Any],
    by_hand: Callable[[bool], int],
    backward: bool,
) -> None:
    network, batch = build(), make_batch()
    counter = counter_of(network, backward)
    with counter.running(), torch.set_grad_enabled(backward):
        rows = rows_of(network, batch)
        if backward:
            rows.sum().backward()
    with FlopCounterMode(display=False) as reference, torch.set_grad_enabled(backward):
        rows = rows_of(build(), batch)
        if backward:
            rows.sum().backward()
    assert counter.flops() == reference.get_total_flops() == by_hand(backward)


def test_what_runs_while_it_is_paused_does_not_count() -> None:
    network, (pixels, _) = resnet(), images()
    counter = counter_of(network, backward=False)
    with counter.running(), torch.no_grad():
        network(pixels)
        with counter.paused():
            network(pixels)
        network(pixels)
    assert counter.flops() == 2 * resnet8_by_hand(backward=False)


COMPILER = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
RUNS = [
    (resnet, images, None),
    (bert, texts, None),
    pytest.param(resnet, images, "eager", marks=pytest.mark.slow),
    pytest.param(resnet, images, "inductor", marks=[pytest.mark.slow, COMPILER]),
]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("build", "make_batch", "backend"), RUNS)
def test_counting_changes_no_bit(
    build: Callable[..., Any], make_batch: Callable[[], Any], backend: str | None, autocast: bool
) -> None:
    ends = []
    for counted in (False, True):
        torch._dynamo.reset()
        network = build(dropout=0.2) if build is bert else build()
        if backend is not None:
            network.compile(backend=backend)
        torch.manual_seed(3)
        for step in range(3):
            counter = counter_of(network, backward=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                if counted and step != 1:
                    with counter.running():
                        rows_of(network, make_batch()).float().sum().backward()
                    found = counter.flops()
                else:
                    rows_of(network, make_batch()).float().sum().backward()
        grads = [each.grad for each in network.parameters() if each.grad is not None]
        ends.append([*grads, *network.buffers(), torch.get_rng_state()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))
    if build is resnet:
        assert found == resnet8_by_hand(backward=True)
    else:  # on a CPU, attention with dropout is plain products, which the backward has at hand
        assert found == bert_by_hand(3, backward=True) - 2 * B * T * T * H


def test_a_compiled_teacher_is_counted_too() -> None:
    torch._dynamo.reset()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    network.compile(backend="eager")
    teacher = Teacher(network, name="compiled", owned=True)
    teacher.place("cpu", "bf16")
    counter = counter_of(network, backward=False)
    with counter.running():
        teacher.rows(images())
    assert counter.flops() == convolution(3, 4, 3, 6) + 2 * B * 4 * 36 * 5


def test_what_is_compiled_out_of_reach_is_not_known() -> None:
    class Twice(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 4), nn.Linear(3, 4)

    partly, wrapped, whole = Twice(), Twice(), Twice()
    partly.one.compile(backend="eager")
    wrapped.one = torch.compile(wrapped.one, backend="eager")  # type: ignore[assignment]
    whole._compiler_ctx = {"compiler": "dynamo"}
    for module in (partly, wrapped, whole):
        counter = counter_of(module, backward=False)
        with counter.running():
            module.one(torch.zeros(2, 3))
        assert counter.flops() is None


def test_shapes_that_depend_on_values_are_not_known_where_they_are_compiled() -> None:
    class Gather(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 4)

        def forward(self, rows: Tensor) -> Tensor:
            return self.head(rows[rows[:, 0] > 0])

    network = Gather()
    network.compile(backend="eager")
    counter = counter_of(network, backward=False)
    with counter.running():
        network(torch.randn(5, 3))
    assert counter.flops() is None


def test_hooks_inside_what_is_compiled_make_it_unknown() -> None:
    torch._dynamo.reset()
    network = nn.Sequential(nn.Linear(3, 4))
    network.compile(backend="eager")
    network[0].register_forward_hook(lambda module, inputs, output: output[:1])
    counter = counter_of(network, backward=False)
    with counter.running():
        network(torch.randn(5, 3))
    assert counter.flops() is None
