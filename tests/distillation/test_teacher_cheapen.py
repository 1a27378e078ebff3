"""Cheaper forwards give the same rows but for rounding, and can be undone to the last bit."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrr_lightning.distillation.teacher import (
    Normalization,
    RowSchema,
    Teacher,
    called_parts,
    computes_in_bf16,
    tensor_bytes,
)
from rrr_lightning.models.image_classifier import ImageClassifier
from tests.distillation.test_batchnorm_folding import worn
from tests.models.texts import language_model

FOLDED = {"rtol": 1e-4, "atol": 1e-5}
BF16_ROUNDING = {"rtol": 0.05, "atol": 0.05}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def make_network() -> nn.Module:
    return worn(ImageClassifier("cifar_resnet8", 10, seed=0))


def norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


@pytest.mark.parametrize(("precision", "near"), [("32", FOLDED), ("bf16", BF16_ROUNDING)])
def test_rows_stay_and_are_put_back_to_the_last_bit(
    images: Tensor, precision: Any, near: dict[str, float]
) -> None:
    teacher = Teacher(make_network(), name="t")
    teacher.place("cpu", "32")
    before = teacher.logits((images, None))
    names = [name for name, _ in teacher.network.named_modules()]
    state = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    undo = teacher.cheapen(precision)
    assert norms(teacher.network) == 0, "below a module that cannot be traced, too"
    rows = teacher.logits((images, None))
    torch.testing.assert_close(rows.float(), before, **near)
    assert not any(part.training for part in teacher.network.modules())
    assert not any(each.requires_grad for each in teacher.network.parameters())
    undo()
    assert torch.equal(teacher.logits((images, None)), before)
    assert [name for name, _ in teacher.network.named_modules()] == names
    for name, tensor in teacher.network.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    teacher.cheapen(precision)
    assert torch.equal(teacher.logits((images, None)), rows), "a second time is the same"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_compiled_rows_stay_and_are_put_back_to_the_last_bit(
    images: Tensor, precision: Any
) -> None:
    teacher, eager = (Teacher(make_network(), name="t") for _ in range(2))
    for each in (teacher, eager):
        each.place("cpu", "32")
    before = teacher.logits((images, None))
    undo = teacher.cheapen(precision, compiled=True)
    eager.cheapen(precision)
    (part,) = called_parts(teacher.network)
    near = FOLDED if precision == "32" else BF16_ROUNDING
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    seen = []
    for _ in range(3):
        rows = teacher.logits((images, None))
        torch.testing.assert_close(rows, eager.logits((images, None)), **near)
        seen.append(graphs["unique_graphs"])
    assert part._compiled_call_impl is not None
    assert seen[0] > 0
    assert seen == seen[:1] * 3, "compiled once"
    undo()
    assert part._compiled_call_impl is None
    assert torch.equal(teacher.logits((images, None)), before)


def test_what_is_called_is_below_what_gives_rows() -> None:
    image, text = ImageClassifier("cifar_resnet8", 10, seed=0), language_model()
    assert called_parts(image) == [image.network]
    assert called_parts(text) == [text.network.network]
    plain = nn.Linear(2, 3)
    assert called_parts(plain) == [plain]

    class Several(nn.Module):
        """Gives rows by way of a list of networks, which is not called itself."""

        def __init__(self) -> None:
            super().__init__()
            self.networks = nn.ModuleList([plain])

        def logits(self, batch: Any) -> Tensor:
            found: Tensor = self.networks[0](batch)
            return found

    assert called_parts(Several()) == [plain]


def test_training_mode_is_taken_back_at_every_call(images: Tensor) -> None:
    teacher = Teacher(make_network(), name="t")
    teacher.place("cpu")
    teacher.cheapen("bf16")
    before = teacher.logits((images, None))
    teacher.network.train()
    assert torch.equal(teacher.logits((images, None)), before)


def test_images_come_in_the_layout_of_the_weights(images: Tensor) -> None:
    seen = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)

        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.is_contiguous(memory_format=torch.channels_last))
            return self.conv(images).mean((2, 3))

    own = Normalization((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    teacher = Teacher(Watching(), name="t", schema=RowSchema(normalization=own))
    teacher.place("cpu")
    teacher.cheapen("32")
    seen.clear()  # tracing has called it as well
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    for given in (images, (images, None), pixels):
        teacher.logits(given)
    teacher.inputs = lambda batch: (batch["pixel_values"],)
    teacher.logits({"pixel_values": images})
    assert seen == [True] * 4
    assert teacher.network.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_weights_from_before_are_kept_no_longer_than_the_way_back() -> None:
    teacher = Teacher(make_network(), name="t")
    teacher.place("cpu", "32")
    full = tensor_bytes(teacher.network)
    before = [weakref.ref(each) for each in teacher.network.parameters() if each.ndim == 4]
    kept = teacher.cheapen("bf16")
    assert 0.4 * full < tensor_bytes(teacher.network) < 0.6 * full
    assert all(each() is not None for each in before)
    del kept
    gc.collect()
    assert not any(each() is not None for each in before)


def test_networks_of_others_are_never_changed() -> None:
    network = make_network()
    before = copy.deepcopy(network.state_dict())
    teacher = Teacher(network, name="theirs", owned=False)
    teacher.place("cpu")
    with pytest.raises(RuntimeError, match="'theirs' is not ours"):
        teacher.cheapen("bf16")
    assert norms(network) == 7
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_bf16_is_native_where_the_processor_has_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for amx, avx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda found=amx: found)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda found=avx: found)
        assert computes_in_bf16(cpu) == (amx or avx)
    assert not computes_in_bf16(torch.device("mps"))
