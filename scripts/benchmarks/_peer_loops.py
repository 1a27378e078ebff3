"""The distilled step of each peer, as its documentation has it, on the same networks and batches.

Loops are those of the peers' own examples, without their logging. Images arrive normalised. Where a
peer takes a batch in one piece, a wrapper around the network hands out logits and loss.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from _text_step import TextWorkload
from _timing import StepClock
from step_cost import TEMPERATURE, WEIGHT, Workload
from torch import Tensor, nn
from torch.nn import functional as F

Loop = Callable[[Any, StepClock, nn.Module], None]
Work = Workload | TextWorkload
LEARNING_RATE = 1e-4
SGD: dict[str, Any] = {"momentum": 0.875, "weight_decay": 2**-15}
ADAMW: dict[str, Any] = {"betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.02, "fused": True}


def cast(work: Work) -> AbstractContextManager[Any]:
    """Returns what a forward runs under."""
    mixed = work.precision == "bf16-mixed"
    return torch.autocast(work.device, torch.bfloat16) if mixed else nullcontext()


def image_batches(work: Workload, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields normalised images in the layout that convolutions are fastest in, and labels."""
    prepare = work.student().to(work.device).prepare
    for images, labels in work.batches(steps):
        moved = (each.to(work.device, non_blocking=True) for each in (images, labels))
        yield prepare(next(moved)), next(moved)


def text_batches(work: TextWorkload, steps: int) -> Iterator[dict[str, Tensor]]:
    """Yields batches on the device."""
    for batch in work.batches(steps):
        yield {name: each.to(work.device, non_blocking=True) for name, each in batch.items()}


def image_student(work: Workload) -> nn.Module:
    """Returns a new student on the device, as a plain network in training mode."""
    return work.student().network.to(work.device).train()


def text_student(work: TextWorkload) -> nn.Module:
    """Returns a new student on the device: transformers' own network, which gives all logits."""
    network: nn.Module = work.student().network.network
    return network.to(work.device).train()


def image_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Returns what the student is trained with everywhere."""
    return torch.optim.SGD(network.parameters(), LEARNING_RATE, **SGD)


def text_optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """Returns the same for text."""
    return torch.optim.AdamW(network.parameters(), LEARNING_RATE, **ADAMW)


class Batches:
    """Batches that are made while they are asked for, as many as a loader would say."""

    def __init__(self, make: Callable[[], Iterator[Any]], count: int) -> None:
        self.make = make
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return self.make()

    def __len__(self) -> int:
        return self.count


def under_cast(work: Work, network: nn.Module) -> nn.Module:
    """Returns a network each of whose forwards runs under a cast of its own."""
    forward = network.forward

    def cast_forward(*args: Any, **kwargs: Any) -> Any:
        with cast(work):
            return forward(*args, **kwargs)

    network.forward = cast_forward  # type: ignore[method-assign]
    return network


def timm_images(work: Workload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs `LogitDistillationTask`, as timm's `train.py` does with `--kd-model-name`."""
    from timm.task import LogitDistillationTask

    student: Any = image_student(work)
    student.num_classes, student.in_chans = work.classes, 3
    student.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    task = LogitDistillationTask(
        student, teacher, nn.CrossEntropyLoss(), task_loss_weight=1 - WEIGHT,
        temperature=TEMPERATURE, device=torch.device(work.device), verbose=False,
    ).train()  # fmt: skip
    optimizer = image_optimizer(student)
    for images, labels in image_batches(work, clock.total):
        with cast(work):
            loss = task(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def torchdistill_images(work: Workload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs a `DistillationBox` with its `KDLoss`, as its image classification example does."""
    optimizer = {"key": "SGD", "kwargs": {**SGD}}
    batches = image_batches(work, clock.total)
    _torchdistill(work, clock, (image_student(work), teacher), optimizer, batches)


class Flat(nn.Module):
    """A network whose rows are the logits of all tokens."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Returns them, [B · T, V]."""
        given = {name: each for name, each in batch.items() if name != "labels"}
        logits: Tensor = self.network(**given).logits
        return logits.flatten(0, 1)


def torchdistill_text(work: TextWorkload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs the same on the logits of all tokens; its `KDLoss` wants rows."""
    optimizer = {"key": "AdamW", "kwargs": {**ADAMW}}
    batches = ((batch, batch["labels"].flatten()) for batch in text_batches(work, clock.total))
    networks = Flat(text_student(work)), Flat(teacher)
    _torchdistill(work, clock, networks, optimizer, batches)


def _torchdistill(
    work: Work,
    clock: StepClock,
    networks: tuple[nn.Module, nn.Module],
    optimizer: dict[str, Any],
    batches: Iterator[tuple[Any, Tensor]],
) -> None:
    from torchdistill.core.distillation import DistillationBox

    whole = {"student_module_path": ".", "student_module_io": "output",
             "teacher_module_path": ".", "teacher_module_io": "output"}  # fmt: skip
    loss = {"key": "KDLoss", "kwargs": {**whole, "temperature": TEMPERATURE, "alpha": 1 - WEIGHT}}
    sum_of = {"sub_terms": {"kd": {"criterion": loss, "weight": 1.0}}}
    optimizer["kwargs"]["lr"] = LEARNING_RATE
    config = {
        "num_epochs": 1,
        "teacher": {"forward_proc": "forward_batch_only", "requires_grad": False},
        "student": {"forward_proc": "forward_batch_only", "requires_grad": True},
        "criterion": {"key": "WeightedSumLoss", "kwargs": sum_of},
        "optimizer": optimizer,
    }
    (student, teacher), device = networks, torch.device(work.device)
    box = DistillationBox(teacher, student, {}, config, device, None, False, 1)
    box.pre_epoch_process(epoch=0)
    for inputs, labels in batches:
        with cast(work):
            loss = box.forward_process(inputs, labels, None)
        box.post_forward_process(loss=loss)
        clock.tick()


def modelopt_images(work: Workload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs a network converted by `modelopt.torch.distill`, in a loop as in its guide."""
    student = image_student(work)
    optimizer, model = image_optimizer(student), _modelopt(student, teacher, "")
    for images, labels in image_batches(work, clock.total):
        with cast(work):
            loss = model.compute_kd_loss(student_loss=F.cross_entropy(model(images), labels))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def modelopt_text(work: TextWorkload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs the same for text, on the logits of all tokens."""
    student = text_student(work)
    optimizer, model = text_optimizer(student), _modelopt(student, teacher, "cls")
    for batch in text_batches(work, clock.total):
        with cast(work):
            loss = model.compute_kd_loss(student_loss=model(**batch).loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        clock.tick()


def _modelopt(student: nn.Module, teacher: nn.Module, layer: str) -> Any:
    import modelopt.torch.distill as mtd

    loss = mtd.LogitsDistillationLoss(temperature=TEMPERATURE, reduction="batchmean")
    settings = {
        "teacher_model": teacher,
        "criterion": {(layer, layer): loss},
        "loss_balancer": mtd.StaticLossBalancer(WEIGHT),
    }
    return mtd.convert(student, mode=[("kd_loss", settings)])


class WithLoss(nn.Module):
    """A classifier that takes a batch in one piece and returns logits and loss."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Returns both."""
        logits = self.network(images)
        return {"logits": logits, "loss": F.cross_entropy(logits, labels)}


def textbrewer_images(work: Workload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs a `BasicDistiller`."""
    networks = WithLoss(image_student(work)), WithLoss(teacher)
    batches = Batches(lambda: image_batches(work, clock.total), clock.total)
    _textbrewer(work, clock, networks, image_optimizer(networks[0]), batches, False)


def textbrewer_text(work: TextWorkload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs a `BasicDistiller` with a mask on the logits, which picks the masked tokens."""
    student = text_student(work)
    batches = Batches(lambda: text_batches(work, clock.total), clock.total)
    _textbrewer(work, clock, (student, teacher), text_optimizer(student), batches, True)


def _textbrewer(
    work: Work,
    clock: StepClock,
    networks: tuple[nn.Module, nn.Module],
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    masked: bool,
) -> None:
    from textbrewer import BasicDistiller, DistillationConfig, TrainingConfig

    def adapt(batch: Any, output: Any) -> dict[str, Any]:
        found = {"logits": (output["logits"],), "losses": (output["loss"],)}
        return found | ({"logits_mask": (batch["labels"] != -100,)} if masked else {})

    class Ticks(torch.optim.lr_scheduler.ConstantLR):
        """Ticks where the distiller steps its schedule, at the end of a step."""

        def step(self, *args: Any) -> None:
            super().step(*args)
            if self.last_epoch > 0:
                clock.tick()

    with tempfile.TemporaryDirectory() as folder:
        training = TrainingConfig(device=work.device, output_dir=folder, ckpt_steps=clock.total)
        loss = DistillationConfig(
            temperature=TEMPERATURE, hard_label_weight=1 - WEIGHT, kd_loss_weight=WEIGHT
        )
        student, teacher = (under_cast(work, network) for network in networks)
        distiller = BasicDistiller(training, loss, teacher, student, adapt, adapt)
        with distiller:
            distiller.train(
                optimizer, batches, num_steps=clock.total, scheduler_class=Ticks,
                scheduler_args={"factor": 1.0},
            )  # fmt: skip


def transformers_text(work: TextWorkload, clock: StepClock, teacher: nn.Module) -> None:
    """Runs Hugging Face's `Trainer` with a distillation loss on the logits of all tokens."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Distils(Trainer):
        """A `Trainer` with the usual `compute_loss`."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            output = model(**inputs)
            with torch.no_grad(), cast(work):  # the Trainer casts the forward of its own model
                targets = teacher(**{k: v for k, v in inputs.items() if k != "labels"}).logits
            log_q = F.log_softmax(output.logits / TEMPERATURE, dim=-1).flatten(0, 1)
            log_p = F.log_softmax(targets / TEMPERATURE, dim=-1).flatten(0, 1)
            divergence = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
            return (1 - WEIGHT) * output.loss + WEIGHT * TEMPERATURE**2 * divergence

        def get_train_dataloader(self) -> Any:
            return work.batches(clock.total)

    class Ticks(TrainerCallback):
        """Ticks at the end of every step."""

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    student = text_student(work)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder, max_steps=clock.total, use_cpu=work.device == "cpu", report_to=[],
            save_strategy="no", logging_strategy="no", disable_tqdm=True,
            bf16=work.precision == "bf16-mixed", max_grad_norm=0.0,
        )  # fmt: skip
        optimizer = text_optimizer(student)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
        trainer = Distils(student, settings, optimizers=(optimizer, schedule), callbacks=[Ticks()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


PEERS: dict[str, dict[str, Loop | str]] = {
    "timm": {"ResNet": timm_images, "BERT": "its tasks take images and class labels"},
    "torchdistill": {"ResNet": torchdistill_images, "BERT": torchdistill_text},
    "nvidia-modelopt": {"ResNet": modelopt_images, "BERT": modelopt_text},
    "textbrewer": {"ResNet": textbrewer_images, "BERT": textbrewer_text},
    "transformers": {
        "ResNet": "its Trainer is no peer for images",
        "BERT": transformers_text,
    },
}
