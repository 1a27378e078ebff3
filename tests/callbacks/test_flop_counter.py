"""Operations are counted as PyTorch and a pencil count them; compiled networks are not counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from rrr_lightning.callbacks.flop_counter import FlopCounter, FlopMeter
from rrr_lightning.models.image_networks import build_network
from rrr_lightning.models.masked_rows import MaskedRows

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
    rows: Tensor = network.logits(batch) if isinstance(network, MaskedRows) else network(batch[0])
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
    counter = FlopCounter()
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
    counter = FlopCounter()
    with counter.running(), torch.no_grad():
        network(pixels)
        with counter.paused():
            network(pixels)
        network(pixels)
    assert counter.flops() == 2 * resnet8_by_hand(backward=False)


RUNS = [(resnet, images), (bert, texts)]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("build", "make_batch"), RUNS)
def test_counting_changes_no_bit(
    build: Callable[..., Any], make_batch: Callable[[], Any], autocast: bool
) -> None:
    ends = []
    for counted in (False, True):
        network = build(dropout=0.2) if build is bert else build()
        torch.manual_seed(3)
        for step in range(3):
            counter = FlopCounter()
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


@pytest.mark.parametrize("which", ["whole", "part", "wrapped", "by Lightning"])
def test_compiled_networks_run_as_they_are_and_are_not_counted(which: str) -> None:
    torch._dynamo.reset()
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    if which == "whole":
        network.compile(backend="eager")
    elif which == "part":
        network[0].compile(backend="eager")
    elif which == "wrapped":
        network[0] = torch.compile(network[0], backend="eager")  # type: ignore[assignment]
    else:
        network._compiler_ctx = {"compiler": "dynamo"}
    batch = torch.zeros(2, 3)
    meter = FlopMeter()
    meter.step(
        lambda: meter.teacher(0, lambda: network(batch), batch, network), batch, nn.Linear(1, 1)
    )
    assert (meter.student_flops(), meter.teacher_flops()) == (0.0, None)
    meter = FlopMeter()
    meter.step(lambda: network(batch), batch, network)
    assert meter.student_flops() is None
    assert not meter.counting
