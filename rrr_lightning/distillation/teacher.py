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

from rrr_lightning.distillation.batchnorm_folding import fold_batch_norms
from rrr_lightning.distillation.logits import (
    Normalization,
    Renormalization,
    RowSchema,
    as_rows,
    check_rows,
    check_schema,
    columns_in_order,
)
from rrr_lightning.errors import InputError

# ----------------------------------------------------------------------
# Freezing, moving, casting and folding a network, and putting it back to the last bit.


# Autocast runs these in low precision and never caches the cast of a frozen weight: three forwards
# cost three casts. Norms are not among them.
_CAST_ONCE = (
    nn.Linear,
    nn.Bilinear,
    nn.Embedding,
    nn.modules.conv._ConvNd,
)


def tensor_bytes(module: nn.Module) -> int:
    """Returns the bytes of a module's parameters and buffers, shared tensors counted once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def cast_weights(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights of matrix products, convolutions and embeddings in place."""
    for part in module.modules():
        if isinstance(part, _CAST_ONCE):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def remember(module: nn.Module) -> Callable[[], None]:
    """Returns a function that puts a module back as it is now.

    It restores the mode of every sub-module, its own sub-modules, and `requires_grad`, device and
    precision of every parameter and buffer. The tensors themselves are kept, so that a cast loses
    no bit.
    """
    modes = [(part, part.training) for part in module.modules()]
    members: list[tuple[Any, dict[str, Any]]] = [
        (held, dict(held))
        for part in module.modules()
        for held in (part._modules, part._parameters)
    ]
    parameters = [(each, each.data, each.requires_grad) for each in module.parameters()]
    buffers: list[tuple[dict[str, Tensor | None], str, Tensor]] = [
        (part._buffers, name, buffer)
        for part in module.modules()
        for name, buffer in part._buffers.items()
        if buffer is not None
    ]
    device = parameters[0][1].device if parameters else None

    def put_back() -> None:
        for held, before in members:
            held.clear()
            held.update(before)
        if device is not None and device != parameters[0][0].device:
            module.to(device)  # for modules that note down where they are, as Lightning's do
        for parameter, data, requires_grad in parameters:
            parameter.data = data
            parameter.requires_grad_(requires_grad)
        for holder, name, buffer in buffers:
            holder[name] = buffer
        for part, training in modes:
            part.training = training

    return put_back


def cheapen(module: nn.Module, dtype: torch.dtype | None) -> int:
    """Makes the forward of a placed, frozen network cheaper, in place.

    Batch norms are folded, convolutions over images get the memory layout that they are fastest in,
    and matrix weights are cast to `dtype`, if given.
    """
    folded = fold_batch_norms(module)
    for parameter in module.parameters():
        if parameter.ndim == 4:  # the layout is of four dimensions; torch refuses it for five
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    if dtype is not None:
        cast_weights(module, dtype)
    return folded


def logits_of(network: nn.Module) -> Callable[[Any], Any] | None:
    """Returns the method `logits(batch)` of a network; a layer of that name is none."""
    method = getattr(network, "logits", None)
    return method if callable(method) and not isinstance(method, nn.Module) else None


def called_parts(network: nn.Module) -> list[nn.Module]:
    """Returns what can be compiled: the modules that are called with tensors, or with batches.

    That is the network itself or, where it is asked for its `logits`, the parts of it that hold
    parameters.
    """
    is_called = not isinstance(network, nn.ModuleList | nn.ModuleDict)
    if is_called and logits_of(network) is None:
        return [network]
    held = [child for child in network.children() if next(child.parameters(), None) is not None]
    return [part for child in held for part in called_parts(child)]


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bf16 faster than of float32, as its makers say."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        cpu: Any = torch.cpu
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return False


def evaluate(parts: list[nn.Module]) -> None:
    """Sets evaluation mode where something has changed it; costs a flag per sub-module."""
    for part in parts:
        if part.training:
            part.training = False


def weight_dtype(module: nn.Module) -> torch.dtype | None:
    """Returns the floating type of the first parameter, or None without one."""
    kinds: Any = (each.dtype for each in module.parameters() if each.is_floating_point())
    return next(kinds, None)


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
        network: Anything with `logits(batch)`, or any network that returns logits.
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
    def logits(self, batch: Any) -> Tensor:
        """Returns the teacher's rows [N, C] for the student's batch, in evaluation mode, no graph.

        Raises:
            InputError: The network cannot take the batch, or gives no rows.
        """
        network = self.network
        evaluate(self._parts or list(network.modules()))
        given = batch if self.inputs is None else self.inputs(batch)
        with self._autocast():
            own = logits_of(network)
            output = own(self._with_images(given)) if own else self._call(network, given)
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
