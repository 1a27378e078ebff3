from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torchvision import models

from rrr_lightning.distillation.teacher import Normalization, RowSchema, Teacher
from rrr_lightning.errors import InputError
from rrr_lightning.files import sha256_of
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.teachers import load_teacher
from tests.models.tiny import make_trainer

KEY = "distillation.teachers[0]"
NAMES = ("cat", "dog", "owl")
STATISTICS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


class SmallNet(nn.Module):
    """Draws its weights, as every network does when it is built."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


SMALL = {"class_path": "tests.test_teachers.SmallNet", "init_args": {"classes": 3}}


def write_checkpoint(path: Path, module: ImageClassifier) -> Path:
    trainer = make_trainer()
    trainer.strategy.connect(module)
    module.trainer = trainer
    trainer.save_checkpoint(path, weights_only=True)
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    module = ImageClassifier("cifar_resnet8", 3, class_names=NAMES, **STATISTICS, seed=5)
    return write_checkpoint(tmp_path / "last.ckpt", module)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(SmallNet().state_dict(), tmp_path / "small.pt")
    return tmp_path / "small.pt"


def test_a_checkpoint_of_ours_says_all_about_itself(checkpoint: Path) -> None:
    teacher = load_teacher(str(checkpoint), key=KEY)
    module = ImageClassifier("cifar_resnet8", 3, seed=5, **STATISTICS).eval()
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    teacher.place("cpu")
    teacher.match(RowSchema(3, NAMES, Normalization((0.5,) * 3, (0.5,) * 3)))
    expected = module.rows((images, None)).detach()
    torch.testing.assert_close(teacher.rows((images, None)), expected, rtol=1e-4, atol=1e-5)
    normalised = (images / 255 - 0.5) / 0.5
    torch.testing.assert_close(teacher.rows((normalised, None)), expected, rtol=1e-4, atol=1e-5)
    assert teacher.schema == RowSchema(3, NAMES, Normalization(**STATISTICS))
    assert (teacher.name, teacher.owned) == (str(checkpoint), True)
    assert teacher.fingerprint() == sha256_of(checkpoint)


def test_a_network_by_class_path_survives_a_checkpoint(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", ImageClassifier(SMALL, 3))
    assert isinstance(load_teacher(str(path)).network.network, SmallNet)


def test_any_network_from_a_mapping(weights: Path) -> None:
    spec = {"model": SMALL, "checkpoint": str(weights), **STATISTICS, "class_names": list(NAMES)}
    teacher = load_teacher(spec)
    teacher.place("cpu")
    network = SmallNet()
    network.load_state_dict(torch.load(weights, weights_only=True))
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(teacher.rows((images, 0)), network.eval()(images))
    assert teacher.schema == RowSchema(3, NAMES, Normalization(**STATISTICS))
    assert load_teacher({"model": SMALL, "checkpoint": str(weights)}).schema == RowSchema()


def test_a_mapping_names_the_network_of_a_checkpoint_around_an_object(tmp_path: Path) -> None:
    module = ImageClassifier(SmallNet(), 3, class_names=NAMES)
    path = write_checkpoint(tmp_path / "a.ckpt", module)
    with pytest.raises(InputError, match=r"around a network object.*class_path"):
        load_teacher(str(path))
    teacher = load_teacher({"model": SMALL, "checkpoint": str(path)})
    assert teacher.schema == module.schema()
    assert torch.equal(teacher.network.head.weight, module.network.head.weight)


def test_objects_stay_their_owners() -> None:
    network = SmallNet().train()
    teacher = load_teacher(network, inputs=lambda batch: batch["x"])
    assert teacher.network is network
    assert (teacher.owned, teacher.name, teacher.schema) == (False, "SmallNet object", RowSchema())
    teacher.place("cpu")
    assert teacher.rows({"x": torch.zeros(2, 3, 8, 8)}).shape == (2, 3)
    teacher.release()
    assert network.training
    assert load_teacher(teacher) is teacher
    module = ImageClassifier("cifar_resnet8", 3, class_names=NAMES)
    assert load_teacher(module).schema == module.schema()


def specs(folder: Path) -> dict[str, Any]:
    torch.save(SmallNet().state_dict(), folder / "small.pt")
    torch.save(models.squeezenet1_1(num_classes=3).state_dict(), folder / "net.pth")
    module = ImageClassifier("cifar_resnet8", 3)
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder / "bert")
    return {
        "checkpoint": str(write_checkpoint(folder / "last.ckpt", module)),
        "torchvision": f"torchvision:squeezenet1_1?num_classes=3&checkpoint={folder}/net.pth",
        "hugging face": f"hf:{folder}/bert",
        "hugging face folder": str(folder / "bert"),
        "mapping": {"model": SMALL, "checkpoint": str(folder / "small.pt")},
        "object": SmallNet(),
    }


def test_no_kind_of_teacher_moves_the_students_random_stream(tmp_path: Path) -> None:
    made = specs(tmp_path)
    torch.manual_seed(7)
    expected = SmallNet().head.weight
    for kind, spec in made.items():
        torch.manual_seed(7)
        assert isinstance(load_teacher(spec), Teacher)
        assert torch.equal(SmallNet().head.weight, expected), kind


def test_timm_leaves_the_random_stream_alone_too(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "a.pth")
    state = torch.get_rng_state()
    teacher = load_teacher(f"timm:test_resnet?checkpoint={tmp_path}/a.pth&num_classes=3")
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.schema.columns == 3


def refuse(spec: Any, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_teacher(spec, key=KEY)
    assert str(caught.value).startswith(KEY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("runs/none.ckpt", "no such file; found 'runs/none.ckpt'; accepted: .*torchvision:NAME"),
        ("torchvison:resnet18", "did you mean 'torchvision'"),
        ("torchvision:resnet18?weight=X", "did you mean 'weights'.*found 'weight=X'"),
        ("torchvision:resnet18?weights", "found 'weights'; accepted: weights=…"),
        ("torchvision:resnet18?weights=A&weights=B", "found 'weights=B'"),
        ("timm:resnet18?colour=blue", "found 'colour=blue'"),
        ("hf:bert?revision=main", "found 'revision=main'; accepted: none"),
        ("hf:nobody/nothing", "cannot be loaded"),
        ("torchvision:", "unknown name"),
        ("", "no such file"),
        (3, "no teacher spec; found 'int'"),
    ],
)
def test_specs_that_cannot_be_read_are_refused(spec: Any, message: str) -> None:
    refuse(spec, message)


def test_files_that_say_too_little_are_refused(weights: Path, tmp_path: Path) -> None:
    refuse(str(weights), "does not say which network.*class_path")
    refuse(str(tmp_path), r"the folder holds no config\.json")
    (tmp_path / "cut.ckpt").write_bytes(weights.read_bytes()[:200])
    refuse(str(tmp_path / "cut.ckpt"), "truncated, damaged")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["rrr_lightning"].update({"class": "ImageClasifier"}), "unknown class"),
        (lambda c: c["rrr_lightning"].pop("arguments"), "does not say which network"),
        (lambda c: c["rrr_lightning"]["arguments"].update(colour=1), "cannot be rebuilt.*colour"),
        (
            lambda c: c["rrr_lightning"]["arguments"].update(network="cifar_resnet9"),
            "cannot be rebuilt.*cifar_resnet",
        ),
        (
            lambda c: c["rrr_lightning"]["arguments"].update(network="cifar_resnet14"),
            r"do not fit the network: .* missing .*closest prefix",
        ),
        (lambda c: c.update(state_dict={}), "holds no state dict"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(
    checkpoint: Path, change: Callable[[Any], object], message: str
) -> None:
    refuse(str(edit(checkpoint, change)), message)


@pytest.mark.parametrize("nested", [False, True])
def test_a_checkpoint_cannot_choose_what_code_runs(checkpoint: Path, nested: bool) -> None:
    sentinel = checkpoint.with_name("ran")
    evil: Any = {"class_path": "os.system", "init_args": {"command": f"touch {sentinel}"}}
    if nested:
        evil = {"class_path": "torch.nn.Sequential", "init_args": {"layers": [evil]}}

    def change(content: dict[str, Any]) -> None:
        content["rrr_lightning"]["arguments"]["network"] = evil

    assert callable(os.system)
    refuse(str(edit(checkpoint, change)), r"a class that is no network; found 'os\.system'")
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chekpoint": "a"}, "unknown key; did you mean 'checkpoint'"),
        ({"checkpoint": None}, "needs a network and its weights"),
        ({"model": "resnet50"}, "needs a network and its weights"),
        ({"model": {"class_path": "tests.nothing.Net"}}, r"model\.class_path: cannot be imported"),
        ({"model": {**SMALL, "init_args": {"width": 3}}}, "does not fit tests"),
        ({"model": {**SMALL, "init_args": {"classes": 4}}}, r"shape \(head\.bias: \(3,\)"),
        ({"checkpoint": "/none.pt"}, r"\.checkpoint: no such weight file"),
        ({"class_names": "cat"}, "class_names: is no list of names"),
        ({"mean": [0.5] * 3}, "mean and std are no image statistics"),
        ({"mean": 0.5, "std": 0.5}, "mean and std are no image statistics"),
        ({"mean": [0.5], "std": [0.0]}, "mean and std are no image statistics"),
    ],
)
def test_mappings_that_cannot_be_read_are_refused(
    weights: Path, change: dict[str, Any], message: str
) -> None:
    refuse({"model": SMALL, "checkpoint": str(weights), **change}, message)
