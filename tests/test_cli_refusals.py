"""Wrong teachers, students and data, as a user of the command line meets them.

One line, exit code 2, and nothing left behind. `test_cli.py` has the wrong keys and values.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from rrr_lightning.cli import check_is_trained
from rrr_lightning.models.image_classifier import ImageClassifier
from tests.cli_runs import FIT, TINY
from tests.students import save_flat

Refused = Callable[..., str]
STUDENT = ("--model=tests.students.Awkward", "--data=EmbeddedDigits", *FIT[6:])


def teacher_option(path: str, class_path: str, **init_args: Any) -> str:
    model = {"class_path": class_path, "init_args": init_args}
    return f"--distillation.teachers={yaml.safe_dump([{'model': model, 'checkpoint': path}])}"


def resnet_option(path: str, depth: int = 8) -> str:
    class_path = "rrr_lightning.models.image_networks.CifarResNet"
    return teacher_option(path, class_path, depth=depth, num_classes=10)


class Runs:
    """Pickles to a call of `touch executed`."""

    def __reduce__(self) -> Any:
        return subprocess.check_call, (["touch", "executed"],)


def save_pickle(path: str) -> None:
    Path(path).write_bytes(pickle.dumps({"state_dict": Runs()}, protocol=2))


def save_new_format(path: str) -> None:
    torch.save({"state_dict": Runs()}, path)


def save_old_format(path: str) -> None:
    torch.save({"state_dict": Runs()}, path, _use_new_zipfile_serialization=False)


def save_truncated(path: str) -> None:
    torch.save(ImageClassifier("cifar_resnet8", 10).network.state_dict(), path)
    Path(path).write_bytes(Path(path).read_bytes()[:3000])


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path: None, "no such weight file"),
        (lambda path: Path(path).mkdir(), "folder|directory"),
        (save_truncated, "truncated"),
        (save_pickle, "it could run code, and is refused"),
        (save_new_format, "holds no state dict"),
        (save_old_format, "holds no state dict"),
    ],
)
def test_bad_teacher_files(save: Callable[[str], None], message: str, refused: Refused) -> None:
    save("teacher.pt")
    line = refused(*FIT, resnet_option("teacher.pt"))
    assert line.startswith("distillation.teachers[0]")
    assert re.search(message, line), line
    assert "teacher.pt" in line
    assert not Path("executed").exists()
    assert not Path("runs").exists()


def test_a_teacher_of_another_architecture(refused: Refused) -> None:
    torch.save(ImageClassifier("cifar_resnet14", 10).network.state_dict(), "teacher.pt")
    line = refused(*FIT, resnet_option("teacher.pt", depth=8))
    assert line.startswith("distillation.teachers[0]")
    assert "unexpected" in line
    assert "blocks." in line


def test_a_teacher_with_permuted_labels(refused: Refused) -> None:
    names = [str(digit) for digit in (1, 0, *range(2, 10))]
    module = ImageClassifier("cifar_resnet8", 10, class_names=names)
    block = {**module.describe(), "training": {}}
    torch.save(
        {"state_dict": module.state_dict(), "rrr_lightning": block, "global_step": 1}, "other.ckpt"
    )
    line = refused(*FIT, "--distillation.teachers=other.ckpt")
    assert line.startswith("distillation.teachers[0]")
    assert "order" in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("columns", "value", "message"),
    [(10, float("nan"), "hold NaN or infinity"), (1, 0.0, "found 1; accepted: 10")],
)
def test_bad_teacher_rows(columns: int, value: float, message: str, refused: Refused) -> None:
    save_flat("flat.pt", value)
    line = refused(*FIT, teacher_option("flat.pt", "tests.students.Flat", columns=columns))
    assert line.startswith("distillation.teachers[0]")
    assert message in line
    assert not Path("runs").exists()


def test_a_teacher_below_the_minimum_accuracy(refused: Refused) -> None:
    save_flat("flat.pt", 0.0)
    option = teacher_option("flat.pt", "tests.students.Flat")
    line = refused(*FIT, option, "--distillation.teacher_min_accuracy=0.5")
    assert line.startswith("distillation.teachers[0]")
    assert "accepted: at least 50.0% (distillation.teacher_min_accuracy)" in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "no sub-module is named, and training_step returns no `logits`"),
        ("nett", "no sub-module of this name; did you mean 'net'?; found 'nett'"),
        ("never", "ran never in one training step"),
        ("twice", "ran 2 times in one training step"),
        ("pair", "a bare tuple may start with the loss"),
    ],
)
def test_bad_student_rows(name: str | None, message: str, refused: Refused) -> None:
    save_flat("flat.pt", 0.0)
    options = [teacher_option("flat.pt", "tests.students.Flat")]
    if name is not None:
        options.append(f"--distillation.student_logits={name}")
    line = refused("fit", *STUDENT, *options)
    assert line.startswith("distillation.student_logits: ")
    assert message in line
    assert not Path("runs").exists()


def test_manual_optimization(refused: Refused) -> None:
    save_flat("flat.pt", 0.0)
    option = teacher_option("flat.pt", "tests.students.Flat")
    line = refused("fit", *STUDENT, option, "--model.automatic=false")
    assert "manual optimization is out of a callback's reach" in line
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("key", "value", "accepted"),
    [
        ("schedule.until", "0", "(0, 1]"),
        ("schedule.start", "0.6", "until"),
        ("schedule.weight", "1.5", "[0, 1]"),
        ("schedule.shape", "quadratic", "linear"),
        ("schedule.every_n_steps", "0", "from 1"),
        ("teacher_min_accuracy", "2", "[0, 1]"),
        ("teacher_precision", "64", "bf16"),
    ],
)
def test_bad_values(key: str, value: str, accepted: str, refused: Refused) -> None:
    line = refused(*FIT, "--distillation.teachers=x.ckpt", f"--distillation.{key}={value}")
    assert f"distillation.{key}" in line
    assert accepted in line


# ---------------------------------------------------------------------------------- weights

BERT = '{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}'
RANDOM = {
    "images": TINY,
    "torchvision": (*TINY, "--model.network=resnet18"),
    "masked_lm": (
        *("--model=MaskedLanguageModel", "--model.vocabulary_size=300", f"--model.network={BERT}"),
        *("--data=TextDataModule", "--data.source=embedded", "--data.tokenizer=train:300"),
        *TINY[5:],
    ),
}


@pytest.mark.parametrize(
    ("command", "case"),
    [
        ("validate", "images"),
        ("test", "images"),
        ("predict", "images"),
        ("test", "torchvision"),
        ("validate", "masked_lm"),
    ],
)
def test_random_weights_are_not_judged(command: str, case: str, refused: Refused) -> None:
    line = refused(command, *RANDOM[case], "--trainer.default_root_dir=run")
    assert line == (
        f"ckpt_path: {command} needs trained weights, those of the new model are random; "
        "accepted: --ckpt_path last, or the path of a checkpoint"
    )
    assert not Path("run").exists()


def test_weights_that_a_model_starts_from_are_judged(caplog: pytest.LogCaptureFixture) -> None:
    trained, foreign = ImageClassifier("cifar_resnet8", 10), BoringModel()
    trained.starts_trained = True
    check_is_trained(trained, "validate")
    assert caplog.messages == []
    check_is_trained(foreign, "validate")
    assert caplog.messages == ["no --ckpt_path: the weights are those that the model is made with"]


# ---------------------------------------------------------------------------------- data


def write_images(splits: dict[str, list[str]]) -> str:
    for split, classes in splits.items():
        for name in classes:
            folder = Path("images", split, name)
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (40, 40), (80 * number, 10, 10)).save(folder / f"{number}.jpg")
    return "images"


def images(*options: str) -> tuple[str, ...]:
    settings = ("global_batch_size=2", "crop_size=16", "resize_size=16", "num_workers=0")
    data = ("--data=ImageDataModule", "--data.source=images")
    model = ("--model=ImageClassifier", "--model.network=cifar_resnet8", "--model.num_classes=2")
    return ("fit", *model, *data, *(f"--data.{each}" for each in settings), *FIT[6:], *options)


def test_an_empty_image_folder(refused: Refused) -> None:
    Path("images/train/a").mkdir(parents=True)
    line = refused(*images())
    assert line.startswith("data.source")
    assert "images" in line


def test_a_missing_folder(refused: Refused) -> None:
    line = refused(*images())
    assert line.startswith("data.source: ")
    assert "'images'" in line
    assert not Path("runs").exists()


def test_an_unreadable_folder(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images({"train": ["a", "b"], "val": ["a", "b"]})
    scandir = os.scandir

    def deny(folder: Any = ".") -> Any:  # the administrator may read what permission bits forbid
        if str(folder) == "images/train":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", deny)
    line = refused(*images())
    assert line.startswith("data.source: cannot be read as a folder (Permission denied)")
    assert "images/train" in line
    assert not Path("runs").exists()


def test_a_corrupt_image_is_named_with_its_index(refused: Refused) -> None:
    write_images({"train": ["a", "b"], "val": ["a", "b"]})
    Path("images/train/b/1.jpg").write_bytes(b"no image")
    line = refused(*images("--trainer.num_sanity_val_steps=0"))
    assert line.startswith("data.source: image 4, images/train/b/1.jpg ")
    assert not Path("runs").exists()


def test_a_class_of_train_that_val_has_not(refused: Refused) -> None:
    write_images({"train": ["a", "b"], "val": ["a"]})
    line = refused(*images())
    assert line.startswith("data.")
    assert "'b'" in line
