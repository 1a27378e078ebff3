"""Images with class labels from a folder, parquet files or the hub, in keyed views.

Batches are `(images, labels)`: uint8 [B, 3, H, W] in channels-last memory and int64 [B]. The model
normalises on its device. Every view is a function of (seed, epoch, index); with `tuning_fraction` a
part of the training split, the same for every seed, validates in place of the validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from rrr_lightning.data.image_sources import Images, ImageSource, ImageSplits, UnlabelledImages
from rrr_lightning.data.module import KeyedDataModule
from rrr_lightning.data.sampling import Key
from rrr_lightning.data.transforms import (
    Cut,
    EvaluationView,
    ShiftedViews,
    TrainingView,
    View,
    decode,
    decoded_view,
)
from rrr_lightning.errors import InputError, check_types
from rrr_lightning.keyed_rng import global_seed, keyed_permutation

# ----------------------------------------------------------------------
# Data sets of images: a list of (epoch, index) keys becomes a batch of views and labels.


Batch = tuple[torch.Tensor, torch.Tensor] | torch.Tensor


class ViewedImages:
    """Images of any size, decoded when asked for and brought to one size by a view.

    Args:
        source: Where the images are.
        chosen: Indices into the source, int64 of shape [N].
        view: Makes the view of an image.
    """

    def __init__(self, source: Images, chosen: torch.Tensor, view: View) -> None:
        self.source = source
        self.chosen = chosen
        self.view = view

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        indices = self.chosen[[index for _, index in keys]]
        name = self.source.name
        images = zip(keys, indices.tolist(), self.source.encoded(indices.tolist()), strict=True)
        views = [
            decoded_view(encoded, partial(name, index), partial(self._cut, key))
            for key, index, encoded in images
        ]
        return _batch(torch.stack(views), self.source, indices)

    def _cut(self, key: Key, width: int, height: int) -> Cut:
        return self.view(width, height, *key)


class SmallImages:
    """Images of one small size, decoded once and held in memory: [N, H, W, 3] bytes.

    Args:
        source: Where the images are.
        chosen: Indices into the source, int64 of shape [N].
        views: Makes the views of a batch; None leaves images as they are.
    """

    def __init__(self, source: Images, chosen: torch.Tensor, views: ShiftedViews | None) -> None:
        self.source = source
        self.chosen = chosen
        self.views = views
        self._pixels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        epochs, indices = torch.tensor(keys).unbind(1)
        images = self.decode()[indices]
        if self.views is not None:
            images = self.views(images, epochs, indices)
        return _batch(images, self.source, self.chosen[indices])

    def decode(self) -> torch.Tensor:
        """Returns all images, decoded when first asked for: uint8 of shape [N, H, W, 3]."""
        if self._pixels is None:
            chosen = self.chosen.tolist()
            images: list[Image.Image] = []
            for start in range(0, len(chosen), 1000):
                part = chosen[start : start + 1000]
                for index, encoded in zip(part, self.source.encoded(part), strict=True):
                    images.append(decode(encoded, self.source.name(index)))
                    self._check_size(images, index)
            pixels = np.stack([np.asarray(image) for image in images])
            self._pixels = torch.from_numpy(pixels)
        return self._pixels

    def _check_size(self, images: list[Image.Image], index: int) -> None:
        if images[-1].size != images[0].size:
            raise InputError(
                f"cifar needs images of one size, here that of the first, {images[0].size}; "
                f"{self.source.name(index)} has another",
                key="data.transform",
                found=images[-1].size,
                accepted="imagenet for images of different sizes",
            )


def _batch(images: torch.Tensor, source: Images, indices: torch.Tensor) -> Batch:
    """Images in channels-last memory, with their labels where there are any."""
    images = images.permute(0, 3, 1, 2)
    return images if source.labels is None else (images, source.labels[indices])


ImageSet = ViewedImages | SmallImages


class ImageDataModule(KeyedDataModule):
    """Images with class labels.

    Args:
        source: A folder with a folder per split and class (`train/<class>/*.jpg`), a folder of
            parquet files (`train*.parquet`, `test*.parquet`), a parquet file, or a hub id.
        train_split: Name of the training split; `train` stands for any word for training.
        val_split: Name of the validation split; by default any word for validation, or else the
            test split.
        image_column: Column of images in tables.
        label_column: Column of labels in tables.
        global_batch_size: Samples of one optimizer step, over all devices and micro-batches.
        micro_batch_size: The most samples per device and forward pass; by default a device's share.
        eval_batch_size: Samples per device in evaluation; by default that of training.
        transform: "imagenet" for random resized crops, flips and central evaluation crops; "cifar"
            for small images of one size, held in memory: shifts by up to 4 pixels and flips.
        crop_size: Side of a view under "imagenet".
        resize_size: Shorter side before the central crop under "imagenet".
        min_scale: Least share of an image's area in a training crop under "imagenet".
        tuning_fraction: Part of the training split to validate on instead of the validation split,
            which is then left to `test` where there is no test split.
        predict_source: What `predict` uses: the name of a split, or a folder of images without
            labels; by default the test split, or else the validation split.
        num_workers: Processes that load data, per device; by default one less than the cores, at
            most 16, and none for "cifar".
        seed: Seed of order and views; by default that of `seed_everything`, or 0.
    """

    def __init__(
        self,
        source: str,
        train_split: str = "train",
        val_split: str | None = None,
        image_column: str = "image",
        label_column: str = "label",
        global_batch_size: int = 256,
        micro_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        transform: Literal["imagenet", "cifar"] = "imagenet",
        crop_size: int = 224,
        resize_size: int = 256,
        min_scale: float = 0.08,
        tuning_fraction: float = 0.0,
        num_workers: int | None = None,
        seed: int | None = None,
        predict_source: str | None = None,
    ) -> None:
        check_types(ImageDataModule.__init__, locals(), "data.")
        if num_workers is None and transform == "cifar":
            num_workers = 0
        super().__init__(global_batch_size, micro_batch_size, eval_batch_size, num_workers, seed)
        if not 0 < crop_size <= resize_size:
            raise InputError(
                "out of range",
                key="data.crop_size",
                found=crop_size,
                accepted=f"1 to data.resize_size, {resize_size}",
            )
        _check_fraction("min_scale", min_scale, 0 < min_scale <= 1, "(0, 1]")
        _check_fraction("tuning_fraction", tuning_fraction, 0 <= tuning_fraction < 1, "[0, 1)")
        self.source = source
        self.splits = (train_split, val_split)
        self.columns = (image_column, label_column)
        self.transform = transform
        self.crop_size = crop_size
        self.resize_size = resize_size
        self.min_scale = min_scale
        self.tuning_fraction = tuning_fraction
        self.predict_source = predict_source

    @cached_property
    def opened(self) -> ImageSplits:
        """The splits of the source as they are stored."""
        return ImageSplits(self.source, *self.splits, *self.columns)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the labels, where they are known."""
        return self.opened.train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes; without names, the greatest training label plus one."""
        names = self.class_names
        return len(names) if names else int(self.opened.train.labels.max()) + 1

    def prepare_data(self) -> None:
        """Downloads and converts on one rank what the others then find in the cache."""
        _ = self.opened.train, self.opened.validation

    def setup(self, stage: str) -> None:
        """Also decodes small images here, once, before there are workers."""
        super().setup(stage)
        for part in self.sets if stage == "fit" else self.sets[1:]:
            if isinstance(part, SmallImages):
                part.decode()

    def load(self) -> tuple[ImageSet, ImageSet]:
        """Returns the training views and the validation views."""
        train, validation = self.opened.train, self.opened.validation
        length = len(train.labels)
        if self.tuning_fraction == 0:
            if validation is None:
                raise InputError(
                    f"{self.source} has no validation or test split to validate on",
                    key="data.tuning_fraction",
                    found=self.tuning_fraction,
                    accepted="the fraction of the training split to validate on",
                )
            return self._training(train, torch.arange(length)), self._evaluation(validation)
        held_out = round(self.tuning_fraction * length)
        if not 0 < held_out < length:
            raise InputError(
                f"takes {held_out} of {length} samples",
                key="data.tuning_fraction",
                found=self.tuning_fraction,
                accepted="a fraction that leaves samples on both sides",
            )
        order = keyed_permutation(length, "tuning")
        tuning, rest = order[:held_out].sort().values, order[held_out:].sort().values
        return self._training(train, rest), self._evaluation(train, tuning)

    def test_set(self) -> ImageSet | None:
        """Returns the test split; under `tuning_fraction` the validation split where it has none.

        With a `tuning_fraction` nothing is chosen by the validation split, so it may test.
        """
        test = self.opened.test
        if test is None and self.tuning_fraction:
            test = self.opened.validation
        return None if test is None else self._evaluation(test)

    @cached_property
    def predict_images(self) -> Images:
        """What `predict` uses.

        Raises:
            InputError: `predict_source` is neither a split nor a folder of images.
        """
        asked, splits = self.predict_source, self.opened
        if asked is None:
            return splits.test or splits.validation or splits.train
        if asked in splits.names:
            return splits.open(asked)
        if not Path(asked).is_dir():
            raise InputError(
                "is neither a split nor a folder",
                key="data.predict_source",
                found=asked,
                accepted=f"{', '.join(splits.names)}, or a folder of images",
            )
        return UnlabelledImages(Path(asked))

    def predict_dataloader(self) -> Any:
        """Returns a loader of `predict_source`; without labels, batches are images alone."""
        return self.eval_loader(self._evaluation(self.predict_images))

    def _training(self, source: ImageSource, chosen: torch.Tensor) -> ImageSet:
        seed = global_seed(self.seed)
        if self.transform == "cifar":
            return SmallImages(source, chosen, ShiftedViews(len(chosen), seed))
        return ViewedImages(source, chosen, TrainingView(self.crop_size, self.min_scale, seed))

    def _evaluation(self, source: Images, chosen: torch.Tensor | None = None) -> ImageSet:
        chosen = torch.arange(len(source)) if chosen is None else chosen
        if self.transform == "cifar":
            return SmallImages(source, chosen, None)
        return ViewedImages(source, chosen, EvaluationView(self.resize_size, self.crop_size))


def _check_fraction(name: str, value: float, valid: bool, accepted: str) -> None:
    if not valid:
        raise InputError("out of range", key=f"data.{name}", found=value, accepted=accepted)
