"""`ImageClassifier`: the image student, ResNet-50 with the reference recipe by default.

Batches are `(images, labels)`. Images of 8-bit integers are normalised on the device, images of
floating-point numbers are taken as normalised already. Normalisation and mix-up happen as a batch
arrives on the device, before any step, so that student and teacher see the same view.

Suffixes: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torchmetrics.classification import MulticlassAccuracy

from rrr_lightning.distillation.logits import Normalization, RowSchema
from rrr_lightning.errors import InputError, check, check_types
from rrr_lightning.keyed_rng import Part, keyed_randomness
from rrr_lightning.models.image_networks import (
    build_network,
    fill_head_bias,
    initialize_by_recipe,
)
from rrr_lightning.models.student import (
    CHECKPOINT_KEY,
    StudentModule,
    agree_on_classes,
    check_classes,
    micro_step,
)

# ----------------------------------------------------------------------
# Targets that share an image between classes: label smoothing, mix-up, and losses that take them.


def soft_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Returns float32 targets [B, K] for labels [B] or targets [B, K].

    Every target becomes `(1 - smoothing) * target + smoothing / K`.
    """
    targets_BK = F.one_hot(labels, num_classes).float() if labels.ndim == 1 else labels
    if smoothing == 0:
        return targets_BK
    return targets_BK * (1 - smoothing) + smoothing / num_classes


def classification_loss(
    logits_BK: Tensor,
    labels: Tensor,
    kind: Literal["softmax", "binary"] = "softmax",
    smoothing: float = 0.0,
) -> Tensor:
    """Returns the mean loss over images, in float32."""
    logits_BK = logits_BK.float()
    if kind == "softmax":
        return F.cross_entropy(logits_BK, labels, label_smoothing=smoothing)
    targets_BK = soft_targets(labels, logits_BK.shape[1], smoothing)
    total = F.binary_cross_entropy_with_logits(logits_BK, targets_BK, reduction="sum")
    return total / len(logits_BK)


def mix_up(
    images_BCHW: Tensor, labels: Tensor, num_classes: int, alpha: float, *key: Part
) -> tuple[Tensor, Tensor]:
    """Mixes every image and its target with those of another image of the batch.

    One share from Beta(alpha, alpha) for the whole batch and a permutation that says who is mixed
    with whom, both a function of the key alone.

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization".
    """
    with keyed_randomness(*key):
        share = 1 - float(torch.distributions.Beta(alpha, alpha).sample())
        # Pinned, so that the host does not wait for its copy.
        partner_B = torch.randperm(len(labels), pin_memory=labels.is_cuda)
    partner_B = partner_B.to(labels.device, non_blocking=labels.is_cuda)
    targets_BK = soft_targets(labels, num_classes)
    mixed_BCHW = images_BCHW.lerp(images_BCHW[partner_B], share)
    return mixed_BCHW, targets_BK.lerp(targets_BK[partner_B], share)


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageClassifier(StudentModule):
    """Trains any image classification network.

    Args:
        network: A torchvision classification model or `cifar_resnet<6n+2>` by name, any network as
            `{class_path, init_args}`, or a network object, which keeps its weights.
        num_classes: The number of classes, at least 2; a data module's must be the same.
        small_images: Give a torchvision ResNet a stem for small images.
        class_names: The classes in the order of the columns; None for the data module's, if any.
        loss: `softmax` cross-entropy, or `binary` cross-entropy of every class against the rest,
            summed over classes.
        label_smoothing: The share of every target that is spread over all classes, in [0, 1); not
            used in evaluation.
        mixup_alpha: Mix every training image with another by a share drawn from Beta(alpha, alpha);
            0 for no mix-up.
        mean: The mean of pixel values in [0, 1], per channel.
        std: Their standard deviation, per channel.
        initialization: For networks by name: `recipe` (Kaiming-normal weights, batch norm scales
            uniform in [0, 1), and a head bias of -log(classes) for `binary`) or `default`, the
            network's own, which transformers want. Both are keyed by the seed.
        channels_last: Use the memory layout that convolutions are fastest in.
        learning_rate: The peak learning rate; the recipe's at a global batch of 2048.
        momentum: The momentum of SGD.
        weight_decay: The decay of SGD on all parameters; 2**-15 equals the recipe's decoupled 5e-4
            at its learning rate and momentum.
        warmup_steps: Optimizer steps of linear warm-up from 0; then cosine to 0 at `max_steps`.
        warmup_fraction: The same as a fraction of all steps.
        compile_network: Compile the network in place.
        optimizer: A factory that replaces SGD.
        lr_scheduler: A factory that replaces the schedule.
        seed: The key of all randomness; None for the global seed.
    """

    student_logits = "network"
    optimizer_values = ("learning_rate", "weight_decay", "momentum")
    loss_values = ("loss", "label_smoothing", "mixup_alpha")

    def __init__(
        self,
        network: str | dict | nn.Module = "resnet50",  # type: ignore[type-arg]
        num_classes: int = 1000,
        *,
        small_images: bool = False,
        class_names: Sequence[str] | None = None,
        loss: Literal["softmax", "binary"] = "softmax",
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        initialization: Literal["recipe", "default"] = "recipe",
        channels_last: bool = True,
        learning_rate: float = 2.048,
        momentum: float = 0.875,
        weight_decay: float = 2**-15,
        warmup_steps: int | None = None,
        warmup_fraction: float | None = None,
        compile_network: bool = False,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int | None = None,
    ) -> None:
        check_types(ImageClassifier.__init__, {**locals(), "network": ""}, "model.")
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            warmup_fraction=warmup_fraction,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            seed=seed,
        )
        # A bare `dict` above, so that the command line's parser leaves a class path to us.
        self.save_hyperparameters(ignore=["network"] if isinstance(network, nn.Module) else None)
        _check(label_smoothing, mixup_alpha, momentum)
        self.num_classes = num_classes
        self.class_names = check_classes(num_classes, class_names)
        self.small_images = small_images
        self.loss = loss
        self.label_smoothing = label_smoothing
        self.mixup_alpha = mixup_alpha
        self.normalization = Normalization(tuple(mean), tuple(std))
        self.initialization = initialization
        self.channels_last = channels_last
        self.momentum = momentum
        self.network_spec = None if isinstance(network, nn.Module) else network
        if self.network_spec is None:
            self.hparams["network"] = None
        self.network = network if isinstance(network, nn.Module) else self._build(network)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile_network:
            self.network.compile()
        self.accuracies = nn.ModuleDict(
            {stage: _accuracies(num_classes) for stage in ("val", "test")}
        )
        # Plain tensors: buffers would be broadcast by DDP and rounded by half-precision modules.
        self._mean = torch.tensor(self.normalization.mean).view(-1, 1, 1)
        self._std = torch.tensor(self.normalization.std).view(-1, 1, 1)

    def _build(self, spec: str | dict[str, Any]) -> nn.Module:
        with self.keyed_construction():
            network = build_network(spec, self.num_classes, self.small_images)
            if self.initialization == "recipe" and isinstance(spec, str):
                initialize_by_recipe(network)
                if self.loss == "binary":
                    fill_head_bias(network, self.num_classes, -math.log(self.num_classes))
        return network

    # ------------------------------------------------------------------------------ rows

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns logits [B, K] of images, normalised or 8-bit."""
        output = self.network(self.prepare(images_BCHW))
        return require_logits(output, len(images_BCHW), self.num_classes)

    def logits(self, batch: Any) -> Tensor:
        """Returns logits [B, K] of a batch `(images, labels)`, or of images alone."""
        logits_BK: Tensor = self(batch[0] if isinstance(batch, list | tuple) else batch)
        return logits_BK

    def schema(self) -> RowSchema:
        """Returns the classes and the image statistics."""
        return RowSchema(
            columns=self.num_classes, labels=self.class_names, normalization=self.normalization
        )

    def prepare(self, images_BCHW: Tensor) -> Tensor:
        """Normalises 8-bit images and sets the memory layout; a second time changes nothing."""
        if images_BCHW.dtype == torch.uint8:
            if self._mean.device != images_BCHW.device:
                self._mean = self._mean.to(images_BCHW.device)
                self._std = self._std.to(images_BCHW.device)
            images_BCHW = ((images_BCHW / 255 - self._mean) / self._std).to(self.dtype)
        if self.channels_last:
            images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
        return images_BCHW

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        # Not `on_after_batch_transfer`: a data module may have its own, which would replace ours.
        return self._view(super()._apply_batch_transfer_handler(batch, device, dataloader_idx))

    def _view(self, batch: Any) -> Any:
        """Normalises images, and mixes them in training: one view for student and teacher."""
        if not isinstance(batch, list | tuple):
            return self.prepare(batch)
        images_BCHW, labels = self.prepare(batch[0]), batch[1]
        if self.mixup_alpha == 0 or not self.trainer.training:
            return images_BCHW, labels
        # The loop counts a batch only after it has arrived: so far, `ready` is its index.
        batch_idx = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        key = (self.seed, "mix-up", *micro_step(self.trainer, batch_idx))
        return mix_up(images_BCHW, labels, self.num_classes, self.mixup_alpha, *key)

    # ------------------------------------------------------------------------------ steps

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the task loss."""
        images_BCHW, labels = batch
        logits_BK = self(images_BCHW)
        loss = classification_loss(logits_BK, labels, self.loss, self.label_smoothing)
        self.log_training_loss(loss, len(images_BCHW))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs `val/loss`, `val/accuracy` and `val/accuracy_top5`."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs `test/loss`, `test/accuracy` and `test/accuracy_top5`."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns probabilities [B, K]: by softmax, or class by class under `binary`."""
        logits_BK = self.logits(batch).float()
        return logits_BK.sigmoid() if self.loss == "binary" else logits_BK.softmax(dim=1)

    def _evaluate(self, stage: str, batch: Any) -> None:
        images_BCHW, labels_B = batch
        logits_BK = self(images_BCHW)
        # Weighted by images, and summed over ranks before the division: exact for any batch sizes.
        loss = classification_loss(logits_BK, labels_B, self.loss)
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=len(labels_B), sync_dist=True)
        for name, metric in self.accuracies[stage].items():  # type: ignore[operator]
            metric.update(logits_BK, labels_B)
            self.log(f"{stage}/{name}", metric, prog_bar=name == "accuracy")

    # ------------------------------------------------------------------------------ wiring

    def setup(self, stage: str) -> None:
        """Takes class names from the data module; refuses another number or order of classes."""
        data = getattr(self.trainer, "datamodule", None)
        self.class_names = agree_on_classes(self.num_classes, self.class_names, data)

    def default_optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        """Returns SGD with the recipe's coupled decay."""
        return SGD(
            groups, lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay
        )

    def arguments(self) -> dict[str, Any]:
        """Returns what rebuilds the architecture; `network` is None if it came as an object."""
        return {
            "network": self.network_spec,
            "num_classes": self.num_classes,
            "small_images": self.small_images,
            "class_names": None if self.class_names is None else list(self.class_names),
            "loss": self.loss,
            "mean": list(self.normalization.mean),
            "std": list(self.normalization.std),
            "channels_last": self.channels_last,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the class names that the data module gave, besides what every student does."""
        super().on_load_checkpoint(checkpoint)
        labels = checkpoint.get(CHECKPOINT_KEY, {}).get("schema", {}).get("labels")
        if self.class_names is None and labels is not None:
            self.class_names = tuple(labels)


def _accuracies(num_classes: int) -> nn.ModuleDict:
    ranks = {"accuracy": 1, "accuracy_top5": 5} if num_classes > 5 else {"accuracy": 1}
    return nn.ModuleDict(
        {
            name: MulticlassAccuracy(num_classes, top_k=k, average="micro", validate_args=False)
            for name, k in ranks.items()
        }
    )


def _check(label_smoothing: float, mixup_alpha: float, momentum: float) -> None:
    for name, value in (("label_smoothing", label_smoothing), ("momentum", momentum)):
        check(0 <= value < 1, f"model.{name}", value, "a number in [0, 1)")
    check(mixup_alpha >= 0, "model.mixup_alpha", mixup_alpha, "a number from 0 on")


def require_logits(output: Any, num_images: int, num_classes: int, key: str = "network") -> Tensor:
    """Returns the logits [B, K] in what a network returned."""
    if isinstance(output, Mapping):
        output = output.get("logits")
    if isinstance(output, Tensor) and output.shape == (num_images, num_classes):
        return output
    raise InputError(
        "the network's output is not one row of logits per image",
        key=key,
        found=tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__,
        accepted=f"shape {(num_images, num_classes)}",
    )
