"""Loading a teacher, of whatever kind, leaves the chance of a student that draws by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from torchvision.models import resnet18

from rrr_lightning.models.image_classifier import ImageClassifier
from tests.cli_runs import FIT, TINY, Command

# A plain nn.Linear drawn from the global generator, in a module that keys nothing.
STUDENT = ("fit", "--model=tests.students.Awkward", "--data=EmbeddedDigits", *TINY[5:])


class Start(Callback):
    """Writes the weights and the state of the global generator, as they are before step 1."""

    def __init__(self, file: str) -> None:
        self.file = file

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        start = {**pl_module.state_dict(), "generator": torch.get_rng_state()}
        torch.save(start, self.file)


def fit(rrr: Command, name: str, *options: str) -> dict[str, Any]:
    callback = {"class_path": f"{__name__}.Start", "init_args": {"file": f"{name}.pt"}}
    rrr(
        *STUDENT,
        "--trainer.max_steps=1",
        f"--trainer.default_root_dir={name}",
        f"--trainer.callbacks={yaml.safe_dump([callback])}",
        *options,
    )
    start: dict[str, Any] = torch.load(f"{name}.pt", weights_only=True)
    return start


def own_checkpoint(rrr: Command) -> Any:
    rrr(*FIT, "--trainer.max_steps=1", "--trainer.default_root_dir=teacher")
    return "teacher/checkpoints/last.ckpt"


def mapping(rrr: Command) -> Any:
    torch.save(ImageClassifier("cifar_resnet8", 10, seed=1).network.state_dict(), "net.pt")
    class_path = "rrr_lightning.models.image_networks.CifarResNet"
    model = {"class_path": class_path, "init_args": {"depth": 8, "num_classes": 10}}
    return {"model": model, "checkpoint": "net.pt", "mean": [0.5] * 3, "std": [0.5] * 3}


def as_they_are(batch: Any) -> torch.Tensor:
    images: torch.Tensor = batch[0]
    return images


def as_floats(batch: Any) -> torch.Tensor:
    images: torch.Tensor = batch[0] / 255
    return images


def torchvision(rrr: Command) -> Any:
    torch.save(resnet18(num_classes=10).state_dict(), "net.pth")
    return "torchvision:resnet18?checkpoint=net.pth&num_classes=10"


@pytest.mark.parametrize("make_spec", [own_checkpoint, mapping, torchvision])
def test_a_student_starts_the_same_with_and_without_teachers(make_spec: Any, rrr: Command) -> None:
    spec = yaml.safe_dump([make_spec(rrr)] * 2)
    plain = fit(rrr, "plain")
    # The student flattens its images in the step, and the statistics of the torchvision network's
    # images are unknown: a function says what the teachers get.
    function = as_floats if make_spec is torchvision else as_they_are
    inputs = f"--distillation.teacher_inputs={__name__}.{function.__name__}"
    options = (f"--distillation.teachers={spec}", "--distillation.student_logits=net", inputs)
    distilled = fit(rrr, "distilled", *options)
    assert plain.keys() == distilled.keys() == {"net.weight", "net.bias", "generator"}
    assert all(torch.equal(plain[name], distilled[name]) for name in plain)


def test_the_start_is_drawn_from_the_seed_of_the_run(rrr: Command) -> None:
    """So the tests above compare something that chance decides."""
    one, other = fit(rrr, "one"), fit(rrr, "other", "--seed_everything=18")
    assert not torch.equal(one["net.weight"], other["net.weight"])
