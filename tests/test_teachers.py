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
    expected = module.logits((images, None)).detach()
    torch.testing.assert_close(teacher.logits((images, None)), expected, rtol=1e-4, atol=1e-5)
    normalised = (images / 255 - 0.5) / 0.5
    torch.testing.assert_close(teacher.logits((normalised, None)), expected, rtol=1e-4, atol=1e-5)
    assert teacher.schema == RowSchema(3, NAMES, Normalization(**STATISTICS))
    assert (teacher.name, teacher.owned) == (str(checkpoint), True)
    assert teacher.fingerprint() == sha256_of(checkpoint)


def test_a_network_by_class_path_survives_a_checkpoint(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.ckpt", ImageClassifier(SMALL, 3))
    refuse(str(path), "not imported for a file; found 'tests.test_teachers.SmallNet'.*class_path")
    assert isinstance(load_teacher({"model": SMALL, "checkpoint": str(path)}).network, SmallNet)


def test_any_network_from_a_mapping(weights: Path) -> None:
    spec = {"model": SMALL, "checkpoint": str(weights), **STATISTICS, "class_names": list(NAMES)}
    teacher = load_teacher(spec)
    teacher.place("cpu")
    network = SmallNet()
    network.load_state_dict(torch.load(weights, weights_only=True))
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(teacher.logits((images, 0)), network.eval()(images))
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
    assert teacher.logits({"x": torch.zeros(2, 3, 8, 8)}).shape == (2, 3)
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
        (
            lambda c: c["rrr_lightning"]["arguments"].update(colour=1),
            "unknown argument; found .colour.",
        ),
        (
            lambda c: c["rrr_lightning"]["arguments"].update(network="cifar_resnet9"),
            "cannot be rebuilt.*cifar_resnet",
        ),
        (
            lambda c: c["rrr_lightning"]["arguments"].update(network="cifar_resnet14"),
            r"do not fit the network: .* missing .*closest prefix",
        ),
        (lambda c: c.update(state_dict={}), "a whole number of at most 0"),
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
    refuse(
        str(edit(checkpoint, change)),
        r"a class that is not imported for a file; found 'os\.system'",
    )
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


# ------------------------------------------------------------------------------ order of classes


@pytest.mark.parametrize("order", [(1, 2, 0), (2, 1, 0), (0, 1, 2)])
@pytest.mark.parametrize("kind", ["mapping", "checkpoint"])
def test_classes_can_be_put_in_the_students_order(
    tmp_path: Path, order: tuple[int, ...], kind: str
) -> None:
    names = [NAMES[column] for column in order]
    network = SmallNet().eval()
    spec: dict[str, Any] = {"reorder_classes": True, "checkpoint": str(tmp_path / "small.pt")}
    if kind == "mapping":
        torch.save(network.state_dict(), tmp_path / "small.pt")
        spec |= {"model": SMALL, "class_names": names}
    else:
        module = ImageClassifier("cifar_resnet8", 3, class_names=names, seed=1)
        write_checkpoint(tmp_path / "small.pt", module)
        network = module.network.eval()
    teacher = load_teacher(spec, key=KEY)
    teacher.place("cpu")
    student = RowSchema(3, ("Cat", "dog", "owl, night bird"))
    teacher.match(student)
    teacher.match(student)
    images = torch.randn(2, 3, 8, 8)
    given = network(images).detach()
    rows = teacher.logits((images, 0))
    for column, name in enumerate(NAMES):
        expected = given[:, names.index(name)]
        torch.testing.assert_close(rows[:, column], expected, rtol=1e-4, atol=1e-5)
    assert teacher.schema.labels == student.labels


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (None, list(NAMES), "classes can be reordered where.*student: no names"),
        (NAMES, None, "classes can be reordered where.*teacher: no names"),
        (("cat", "dog", "cow"), list(NAMES), "not the student's in another order.*'cow'"),
        (("cat", "dog"), list(NAMES), "not the student's in another order"),
        (("cat", "dog", "cats"), ["cat", "dog", "dog"], "not the student's in another order"),
    ],
)
def test_classes_that_are_others_are_not_reordered(
    weights: Path, labels: tuple[str, ...] | None, names: list[str] | None, message: str
) -> None:
    spec = {"model": SMALL, "checkpoint": str(weights), "reorder_classes": True}
    teacher = load_teacher({**spec, "class_names": names}, key=KEY)
    with pytest.raises(InputError, match=message):
        teacher.match(RowSchema(None if labels is None else len(labels), labels))


# ------------------------------------------------------------------------------ copies in a file


def test_a_copy_is_chosen_in_a_query_and_in_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    first, second = (models.squeezenet1_1(num_classes=3).state_dict() for _ in range(2))
    torch.save({"state_dict": first, "state_dict_ema": second}, path)
    query = f"torchvision:squeezenet1_1?num_classes=3&checkpoint={path}"
    refuse(query, "several copies.*nest=state_dict&prefix= or nest=state_dict_ema&prefix=")
    for nest, state in (("state_dict", first), ("state_dict_ema", second)):
        network = load_teacher(f"{query}&nest={nest}").network
        assert torch.equal(network.classifier[1].weight, state["classifier.1.weight"])
    one, two = SmallNet().state_dict(), SmallNet().state_dict()
    both = {f"student.{n}": t for n, t in one.items()} | {f"teacher.{n}": t for n, t in two.items()}
    torch.save({**both, **SmallNet().state_dict()}, path)
    spec = {"model": SMALL, "checkpoint": str(path)}
    refuse(spec, "several copies.*prefix=student or nest=&prefix=teacher")
    for prefix in ("teacher", "teacher."):
        network = load_teacher({**spec, "prefix": prefix}).network
        assert torch.equal(network.head.weight, two["head.weight"])
    refuse({**spec, "prefix": "nothing"}, "no name in the file has this prefix; found 'nothing'")
    refuse({**spec, "nest": "model"}, "holds no state dict under 'model'")
    refuse({**spec, "prefix": 3}, r"prefix: .*found 3")
    refuse({"checkpoint": str(path), "prefix": "a"}, "prefix: .*only beside `model`")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_heads_of_fine_tuned_networks_are_left_out(tmp_path: Path, name: str) -> None:
    """pytorch/vision#3648: a file of a network that was fine-tuned with its auxiliary heads."""
    network = getattr(models, name)(num_classes=5, aux_logits=True, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "a.pth")
    loaded = load_teacher(f"torchvision:{name}?num_classes=5&checkpoint={tmp_path}/a.pth").network
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images), network.eval()(images))
