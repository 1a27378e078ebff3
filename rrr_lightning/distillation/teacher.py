"""A teacher: a frozen network in evaluation mode that gives rows for the student's batch.

A `Teacher` is no `nn.Module`, so it belongs to no one's parameters, checkpoints or DDP buckets.
Networks handed in as objects come back from `release` as they were; networks loaded from a spec are
ours to fold, to cast and to free.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rrr_lightning.distillation.frozen import (
    called_parts,
    cast_weights,
    cheapen,
    evaluate,
    remember,
    tensor_bytes,
    weight_dtype,
)
from rrr_lightning.distillation.normalization import Normalization, Renormalization
from rrr_lightning.distillation.rows import as_rows, check_rows
from rrr_lightning.distillation.schema import RowSchema, check_schema, columns_in_order
from rrr_lightning.errors import InputError

__all__ = [
    "Normalization",
    "Precision",
    "RowSchema",
    "Teacher",
    "as_rows",
    "check_rows",
    "check_schema",
    "tensor_bytes",
]

Precision = Literal["32", "bf16", "16"]
_LOW_PRECISION = {"bf16": torch.bfloat16, "16": torch.float16}
_TARGETS = ("labels", "label")


class Teacher:
    """A frozen network that gives rows, wherever and in whatever precision it is placed.

    Args:
        network: Anything with `rows(batch)`, or any network that returns logits.
        name: What messages and logs call it.
        schema: What is known of its columns and of its input.
        inputs: From a batch to what the network takes: a tensor, a tuple of positional arguments,
            or a dict of keyword arguments. By default the first element of a tuple batch, a dict
            batch without its labels, or the batch itself.
        sha256: The SHA-256 of the file that it came from.
        ledger: The cost ledger of its own training.
        owned: Whether it was loaded for us, so that it may be folded, cast and freed.
        reorder_classes: Whether `match` brings its columns into the order of the student's classes.
        key: The config key that names it in messages.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        schema: RowSchema | None = None,
        inputs: Callable[[Any], Any] | None = None,
        sha256: str | None = None,
        ledger: dict[str, Any] | None = None,
        owned: bool = True,
        reorder_classes: bool = False,
        key: str = "distillation.teachers",
    ) -> None:
        self.name = name
        self.schema = schema or RowSchema()
        self.inputs = inputs
        self.sha256 = sha256
        self.ledger = ledger
        self.owned = owned
        self.reorder_classes = reorder_classes
        self.key = key
        self._own_schema = self.schema
        self._columns: Tensor | None = None  # in the order of the student's classes
        self._network: nn.Module | None = network
        self._parts: list[nn.Module] = []
        self._put_back: Callable[[], None] | None = None
        self._precision: Precision | None = None
        self._device_type = "cpu"
        self._channels_last = False
        self._dtype: torch.dtype | None = None
        self._images = Renormalization(self.schema.normalization, None)

    @property
    def network(self) -> nn.Module:
        """The network, until an owned teacher is released."""
        if self._network is None:
            raise RuntimeError(f"the teacher {self.name!r} has been released")
        return self._network

    def fingerprint(self) -> str:
        """Returns the SHA-256 of its file, or of its weights where it came as an object."""
        if self.sha256 is None:
            digest = hashlib.sha256()
            for name, tensor in self.network.state_dict().items():
                content = tensor.detach().cpu().contiguous()
                digest.update(f"{name} {content.dtype} {tuple(content.shape)}".encode())
                digest.update(content.reshape(-1).view(torch.uint8).numpy())
            self.sha256 = digest.hexdigest()
        return self.sha256

    def place(self, device: torch.device | str, precision: Precision | None = None) -> None:
        """Freezes the network, sets evaluation mode, moves it, and casts it if asked to.

        Args:
            device: Where the student's batches are.
            precision: `bf16` or `16`: weights of matrix products, convolutions and embeddings are
                held in it, the forward runs under autocast of it, norms stay as they are. `32`: the
                forward runs without autocast. None: weights and autocast as they are.

        Raises:
            InputError: Unknown precision.
        """
        if precision not in (None, "32", *_LOW_PRECISION):
            raise InputError(
                "unknown precision",
                key="distillation.teacher_precision",
                found=precision,
                accepted="32, bf16, 16 or null",
            )
        network = self.network
        if self._put_back is not None:
            self._put_back()
        if not self.owned:
            self._put_back = remember(network)
        self._channels_last = False
        network.eval()
        network.requires_grad_(False)
        network.to(device)
        if precision in _LOW_PRECISION:
            cast_weights(network, _LOW_PRECISION[precision])
        self._device_type = torch.device(device).type
        self._settle(precision)

    def cheapen(self, precision: Precision, compiled: bool = False) -> Callable[[], None]:
        """Makes the forward of a placed teacher of ours cheaper: the same rows but for rounding.

        Batch norms are folded into the convolutions before them, images and convolutions get the
        memory layout that is fastest, and the precision is as in `place`.

        Args:
            precision: As in `place`.
            compiled: Compile what is called, at the next forward.

        Returns:
            A function that puts the network back as it was placed. The weights from before are kept
            as long as it is.

        Raises:
            RuntimeError: The network came as an object, and is its owner's.
        """
        if not self.owned:
            raise RuntimeError(f"the teacher {self.name!r} is not ours to change")
        network, before = self.network, self._precision
        undo = remember(network)
        cheapen(network, _LOW_PRECISION.get(precision))
        self._channels_last = True
        self._settle(precision)
        parts = called_parts(network) if compiled else []
        for part in parts:
            part.compile()

        def put_back() -> None:
            for part in parts:
                part._compiled_call_impl = None
            undo()
            self._channels_last = False
            self._settle(before)

        return put_back

    def _settle(self, precision: Precision | None) -> None:
        self._precision = precision
        self._dtype = weight_dtype(self.network)
        self._parts = list(self.network.modules())

    def match(self, student: RowSchema) -> None:
        """Brings columns and images of the student's into agreement with the teacher's, or refuses.

        Raises:
            InputError: Columns with another meaning, or images with another number of channels.
        """
        if self.reorder_classes:
            columns = columns_in_order(student, self._own_schema, self.key)
            self._columns = torch.tensor(columns)
            self.schema = replace(self._own_schema, labels=student.labels)
        check_schema(student, self.schema, self.key)
        self._images = Renormalization(self.schema.normalization, student.normalization)

    @torch.no_grad()
    def rows(self, batch: Any) -> Tensor:
        """Returns the teacher's rows [N, C] for the student's batch, in evaluation mode, no graph.

        Raises:
            InputError: The network cannot take the batch, or gives no rows.
        """
        network = self.network
        evaluate(self._parts or list(network.modules()))
        given = batch if self.inputs is None else self.inputs(batch)
        with self._autocast():
            rows_of = getattr(network, "rows", None)
            if callable(rows_of):
                output = rows_of(self._with_images(given))
            else:
                output = self._call(network, given)
        rows = as_rows(output, batch, f"the teacher {self.name!r}", self.key)
        return rows if self._columns is None else rows[..., self._columns.to(rows.device)]

    def release(self) -> int:
        """Gives an object back as it came, or lets go of an owned network.

        Returns:
            The bytes of parameters and buffers that the placed network held.
        """
        if self._network is None:
            return 0
        held = tensor_bytes(self._network)
        self._parts = []
        self._precision = None
        if self._put_back is not None:
            self._put_back()
            self._put_back = None
        if self.owned:
            self._network = None
        return held

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision is None:
            return nullcontext()
        dtype = _LOW_PRECISION.get(self._precision)
        return torch.autocast(self._device_type, dtype=dtype, enabled=dtype is not None)

    def _call(self, network: nn.Module, given: Any) -> Any:
        if self.inputs is None and isinstance(given, tuple | list) and given:
            given = given[0]
        given = self._with_images(given)
        positional: tuple[Any, ...] = ()
        named: dict[str, Any] = {}
        if isinstance(given, Mapping):
            named = {name: value for name, value in given.items() if name not in _TARGETS}
        elif isinstance(given, tuple):
            positional = given
        elif isinstance(given, Tensor):
            positional = (given,)
        else:
            raise self._cannot_call(type(given).__name__)
        try:
            return network(*positional, **named)
        except TypeError as error:
            try:
                inspect.signature(network.forward).bind(*positional, **named)
            except TypeError as mismatch:
                raise self._cannot_call(str(mismatch)) from error
            raise

    def _cannot_call(self, found: str) -> InputError:
        return InputError(
            f"the teacher {self.name!r} cannot be called with this batch",
            key="distillation.teacher_inputs",
            found=found,
            accepted="a function from the batch to a tensor, a tuple of arguments or a dict of "
            "keyword arguments",
        )

    def _with_images(self, given: Any) -> Any:
        """The batch or input, with its images as this teacher wants them."""
        if isinstance(given, Tensor):
            return self._image(given)
        if isinstance(given, Mapping):
            images = given.get("pixel_values")
            return {**given, "pixel_values": self._image(images)} if images is not None else given
        if isinstance(given, tuple | list) and given and isinstance(given[0], Tensor):
            rest = (self._image(given[0]), *given[1:])
            return rest if isinstance(given, tuple) else list(rest)
        return given

    def _image(self, images: Tensor) -> Tensor:
        images = self._images(images)
        if self._channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        plain = self._dtype is None or torch.is_autocast_enabled(self._device_type)
        return images if plain or not images.is_floating_point() else images.to(self._dtype)
