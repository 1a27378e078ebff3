from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rrr_lightning.distillation.teacher import (
    Normalization,
    RowSchema,
    Teacher,
    tensor_bytes,
)
from rrr_lightning.errors import InputError

ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
BF16_ROUNDING = {"rtol": 0.05, "atol": 0.05}


class SmallNet(nn.Module):
    def __init__(self, columns: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Linear(6, columns)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


class TokenNet(nn.Module):
    """Answers as Hugging Face networks do: keyword arguments in, a mapping out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.decode = nn.Linear(5, 11)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Any]:
        return OrderedDict(logits=self.decode(self.embed(input_ids)))


class Answer(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, images: Tensor) -> Any:
        return self.answer


@pytest.fixture
def network() -> SmallNet:
    torch.manual_seed(0)
    network = SmallNet()
    network(torch.randn(8, 3, 8, 8))  # moves the batch norm's statistics off their start
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same_state(module: nn.Module, before: dict[str, Tensor]) -> None:
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == before[name].dtype, name
        assert torch.equal(tensor, before[name]), name


class WithLayer(nn.Module):
    """A network whose last layer is called `logits`, as many are."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.logits(inputs) + 1
        return output


def test_a_layer_named_logits_is_no_method() -> None:
    network, inputs = WithLayer(), torch.randn(2, 4)
    assert torch.equal(Teacher(network, name="x").logits((inputs, None)), network(inputs))


def test_rows_are_the_frozen_networks_logits_without_a_graph(
    network: SmallNet, images: Tensor
) -> None:
    teacher = Teacher(network, name="t")
    teacher.place("cpu")
    rows = teacher.logits((images, torch.zeros(5)))
    network.eval()
    assert torch.equal(rows, network(images).detach())
    assert not rows.requires_grad
    assert rows.grad_fn is None
    assert not rows.is_inference()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    rows.mul(torch.ones((), requires_grad=True)).sum().backward()


@pytest.mark.parametrize("meddle", ["train", "one part"])
def test_evaluation_mode_holds_whatever_sets_training_mode(
    network: SmallNet, images: Tensor, meddle: str
) -> None:
    teacher = Teacher(network, name="t")
    teacher.place("cpu")
    state, rows = snapshot(network), teacher.logits(images)
    for _ in range(3):
        (network if meddle == "train" else network.body[1]).train()
        assert torch.equal(teacher.logits(images), rows)
    assert not any(part.training for part in network.modules())
    assert_same_state(network, state)


@pytest.mark.parametrize("precision", [None, "32", "bf16", "16"])
def test_release_gives_an_object_back_to_the_last_bit(
    network: SmallNet, images: Tensor, precision: Any
) -> None:
    network.body[1].eval()
    network.head.bias.requires_grad_(False)
    state, identities = snapshot(network), [id(each) for each in network.parameters()]
    teacher = Teacher(network, name="t", owned=False)
    teacher.place("cpu", precision)
    teacher.logits(images)
    teacher.place("cpu", precision)
    assert teacher.release() > 0
    assert_same_state(network, state)
    assert identities == [id(each) for each in network.parameters()]
    assert [part.training for part in network.body] == [True, False, True, True, True]
    assert network.training
    assert network.head.training
    wants = {name: each.requires_grad for name, each in network.named_parameters()}
    assert wants.pop("head.bias") is False
    assert all(wants.values())
    teacher.place("cpu")
    assert teacher.logits(images).shape == (5, 4)


def test_release_lets_go_of_an_owned_network(network: SmallNet) -> None:
    teacher = Teacher(network, name="t")
    teacher.place("cpu")
    held = tensor_bytes(network)
    assert held == sum(t.numel() * t.element_size() for t in network.state_dict().values())
    assert teacher.release() == held
    assert teacher.release() == 0
    with pytest.raises(RuntimeError, match="released"):
        teacher.logits(torch.zeros(1, 3, 8, 8))


def test_low_precision_casts_weights_once_and_leaves_norms(
    network: SmallNet, images: Tensor
) -> None:
    teacher = Teacher(network, name="t")
    teacher.place("cpu")
    exact = teacher.logits(images)
    teacher.place("cpu", "bf16")
    assert network.body[0].weight.dtype == network.head.weight.dtype == torch.bfloat16
    assert network.body[1].weight.dtype == network.body[1].running_mean.dtype == torch.float32
    rows = teacher.logits(images)
    assert rows.dtype == torch.bfloat16
    torch.testing.assert_close(rows.float(), exact, **BF16_ROUNDING)


def test_full_precision_ignores_the_students_autocast(network: SmallNet, images: Tensor) -> None:
    teacher = Teacher(network, name="t")
    teacher.place("cpu", "32")
    exact = teacher.logits(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher.logits(images), exact)
        teacher.place("cpu")
        assert teacher.logits(images).dtype == torch.bfloat16
    assert teacher.logits(images.bfloat16()).dtype == torch.float32


def test_attention_runs_in_low_precision(images: Tensor) -> None:
    network = nn.Sequential(
        nn.Flatten(2), nn.TransformerEncoderLayer(64, 2, 32, batch_first=True), nn.Flatten(),
        nn.Linear(192, 3),
    )  # fmt: skip
    teacher = Teacher(network, name="t")
    teacher.place("cpu", "bf16")
    assert torch.isfinite(teacher.logits(images)).all()


def test_images_of_the_student_are_renormalised_for_the_teacher(network: SmallNet) -> None:
    pixels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    student = Normalization((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    own = Normalization((0.48, 0.45, 0.4), (0.23, 0.22, 0.21))

    def normalised(by: Normalization) -> Tensor:
        mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (by.mean, by.std))
        return (pixels / 255 - mean) / std

    network.eval()
    expected = network(normalised(own))
    teacher = Teacher(network, name="t", schema=RowSchema(normalization=own))
    teacher.place("cpu")
    teacher.match(RowSchema(normalization=student))
    labels = torch.zeros(4)
    torch.testing.assert_close(teacher.logits((normalised(student), labels)), expected, **ROUNDING)
    torch.testing.assert_close(teacher.logits((pixels, labels)), expected, **ROUNDING)
    for same in (RowSchema(normalization=own), RowSchema()):
        teacher.match(same)
        assert torch.equal(teacher.logits((normalised(own), labels)), expected)
        torch.testing.assert_close(teacher.logits((pixels, labels)), expected, **ROUNDING)
    with pytest.raises(InputError, match="channels"):
        teacher.match(RowSchema(normalization=Normalization((0.5,), (0.5,))))


def test_a_network_with_rows_gets_the_whole_batch() -> None:
    class Rows(nn.Module):
        def logits(self, batch: Any) -> Tensor:
            return batch["rows"] * 2

    teacher = Teacher(Rows(), name="t", inputs=lambda batch: {"rows": batch[1]})
    teacher.place("cpu")
    assert torch.equal(teacher.logits((None, torch.ones(2, 3))), torch.full((2, 3), 2.0))


@pytest.mark.parametrize(
    ("inputs", "batch"),
    [
        (None, lambda x: x),
        (None, lambda x: [x, 1]),
        (None, lambda x: {"images": x, "label": 1}),
        (lambda batch: batch["deep"], lambda x: {"deep": x}),
        (lambda batch: (batch["deep"],), lambda x: {"deep": x}),
        (lambda batch: {"images": batch["deep"]}, lambda x: {"deep": x}),
    ],
)
def test_every_kind_of_batch_and_input(
    network: SmallNet, images: Tensor, inputs: Any, batch: Any
) -> None:
    teacher = Teacher(network, name="t", inputs=inputs)
    teacher.place("cpu")
    rows = teacher.logits(batch(images))
    assert torch.equal(rows, network(images))


def test_masked_tokens_are_the_rows_of_three_dimensional_logits() -> None:
    network = TokenNet()
    tokens = torch.arange(12).view(3, 4) % 11
    labels = torch.full((3, 4), -100)
    labels[0, 2], labels[2, 1] = 5, 0
    teacher = Teacher(network, name="t")
    teacher.place("cpu")
    rows = teacher.logits({"input_ids": tokens, "labels": labels})
    expected = network(tokens)["logits"]
    assert torch.equal(rows, torch.stack([expected[0, 2], expected[2, 1]]))
    labels.fill_(-100)
    assert teacher.logits({"input_ids": tokens, "labels": labels}).shape == (0, 11)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((torch.zeros(5, 4), 1), "holds no logits; found 'tuple'"),
        ({"loss": torch.zeros(())}, "holds no logits"),
        (torch.zeros(5), "are not rows"),
        (torch.zeros(5, 4, 2, 2), r"are not rows; found \(5, 4, 2, 2\)"),
    ],
)
def test_what_holds_no_rows_is_refused(images: Tensor, answer: Any, message: str) -> None:
    teacher = Teacher(Answer(answer), name="a.ckpt", key="distillation.teachers[1]")
    teacher.place("cpu")
    with pytest.raises(InputError, match=message) as caught:
        teacher.logits(images)
    assert "distillation.teachers[1]" in str(caught.value)
    assert "a.ckpt" in str(caught.value)


def test_a_batch_that_does_not_fit_names_teacher_inputs(network: SmallNet, images: Tensor) -> None:
    teacher = Teacher(network, name="t")
    teacher.place("cpu")
    for batch in ({"pixels": images}, {}, "text", ()):
        with pytest.raises(InputError, match=r"distillation\.teacher_inputs"):
            teacher.logits(batch)


def test_unknown_precision_is_refused(network: SmallNet) -> None:
    with pytest.raises(InputError, match=r"teacher_precision.*bf17.*accepted: 32, bf16, 16"):
        Teacher(network, name="t").place("cpu", "bf17")  # type: ignore[arg-type]


def test_fingerprint_follows_the_weights(network: SmallNet) -> None:
    first = Teacher(network, name="t").fingerprint()
    assert first == Teacher(network, name="other").fingerprint()
    with torch.no_grad():
        network.head.bias[0] += 1
    assert Teacher(network, name="t").fingerprint() != first
    assert Teacher(network, name="t", sha256="abc").fingerprint() == "abc"


@pytest.mark.gpu
def test_release_returns_an_object_to_its_device(network: SmallNet, images: Tensor) -> None:
    state = snapshot(network)
    teacher = Teacher(network, name="t", owned=False)
    teacher.place("cuda", "bf16")
    assert teacher.logits(images.cuda()).is_cuda
    teacher.release()
    assert {each.device.type for each in network.state_dict().values()} == {"cpu"}
    assert_same_state(network, state)
