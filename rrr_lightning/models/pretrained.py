"""Pretrained image networks by name, from torchvision and timm, with what their columns mean.

`weights=NAME` takes published weights, which are downloaded once; `checkpoint=FILE` takes a file,
for one's own training or for machines without network. Both together read the published weights
from the file. Files are never unpickled, and must fit strictly.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from rrr_lightning.distillation.logits import Normalization, RowSchema
from rrr_lightning.distillation.state_dicts import load_weights
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError, check, did_you_mean
from rrr_lightning.files import sha256_of
from rrr_lightning.tokens import Vocabulary

# The published weights of these were trained with other statistics than the tables say, and with
# auxiliary heads, which evaluation mode leaves out.
_AS_PUBLISHED = {
    "googlenet": {"transform_input": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}
# Heads that help to train these networks alone; ours are built without them.
_AUXILIARY = {"GoogLeNet": ("aux1.", "aux2."), "Inception3": ("AuxLogits.",)}
_OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)")


@dataclass(frozen=True)
class Pretrained:
    """A loaded network and what is known of it.

    Args:
        network: The network, on the CPU.
        schema: What its columns mean, and the statistics of its images.
        sha256: The SHA-256 of the weight file, where there is a single one.
        inputs: From a batch to what the network takes, where that needs saying.
        ledger: The cost ledger of its training, where it is known.
        vocabulary: The tokens of a masked-LM network, where its tokenizer is known.
    """

    network: nn.Module
    schema: RowSchema = field(default_factory=RowSchema)
    sha256: str | None = None
    inputs: Callable[[Any], Any] | None = None
    ledger: dict[str, Any] | None = None
    vocabulary: Vocabulary | None = None


class _SmallOnCPU(TorchFunctionMode):
    """Keeps written and counted numbers on the CPU: RegNets compute their sizes from them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        is_short = all(isinstance(each, int | float) and abs(each) <= 2**16 for each in args)
        if func is torch.tensor or (func is torch.arange and is_short):
            kwargs = {"device": "cpu", **kwargs}
        return func(*args, **kwargs)


@contextmanager
def size_limit(numbers: int, tensors: int, key: str, with_values: bool = False) -> Iterator[None]:
    """Builds without memory, and stops at a network larger than the weights meant for it."""
    left = {
        "numbers": 2 * numbers + (1 << 20),
        "parameters": 2 * tensors + 64,
        "layers": 16 * tensors + 1024,
    }
    most = dict(left)

    def take(kind: str, count: int) -> None:
        left[kind] -= count
        check(
            left[kind] >= 0,
            key,
            None,
            f"at most {most[kind]}, by the size of its weights",
            f"the file describes a network with more {kind} than it has weights for",
        )

    def parameter(_: nn.Module, __: str, value: Any) -> None:
        if value is not None:
            take("parameters", 1)
            take("numbers", 0 if nn.parameter.is_lazy(value) else value.numel())

    hooks = (
        nn.modules.module.register_module_parameter_registration_hook(parameter),
        nn.modules.module.register_module_module_registration_hook(lambda *_: take("layers", 1)),
    )
    try:
        with torch.device("meta"), _SmallOnCPU() if with_values else nullcontext():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def load_torchvision(name: str, query: Mapping[str, str], key: str) -> Pretrained:
    """Loads a torchvision classification network, or `cifar_resnet…` from a file."""
    from torchvision import models

    from rrr_lightning.models.image_networks import build_network

    if "weights" not in query:
        columns = _num_classes(query, 1000, key)
        network = build_network(name, columns, key=key)
        return _from_file(network, query, RowSchema(columns=columns), key)
    if name not in models.list_models(module=models):
        build_network(name, 1000, key=key)  # says what is known
        raise InputError("there are no published weights", key=key, found=name)
    published = models.get_model_weights(name)
    names = [*published.__members__, "DEFAULT"]
    if query["weights"] not in names:
        raise InputError(
            f"unknown weights of {name}{did_you_mean(query['weights'], names)}",
            key=key,
            found=query["weights"],
            accepted=", ".join(names),
        )
    weights = published[query["weights"]]
    labels = tuple(weights.meta["categories"])
    _num_classes(query, len(labels), key, fixed=True)
    transforms = weights.transforms()
    schema = RowSchema(
        columns=len(labels),
        labels=labels,
        normalization=Normalization(tuple(transforms.mean), tuple(transforms.std)),
    )
    network = models.get_model(
        name, weights=None, num_classes=len(labels), **_AS_PUBLISHED.get(name, {})
    )
    path = query.get("checkpoint") or _download(weights.url, key)
    return _from_file(network, {**query, "checkpoint": str(path)}, schema, key)


def load_timm(name: str, query: Mapping[str, str], key: str) -> Pretrained:
    """Loads a timm network; the name may carry the tag of its weights: `resnet50.a1_in1k`."""
    if importlib.util.find_spec("timm") is None:
        raise InputError(
            "timm is not installed",
            key=key,
            found=f"timm:{name}",
            accepted="pip install 'rrr-lightning[timm]', or another kind of teacher",
        )
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise InputError(
            f"unknown timm network{did_you_mean(architecture, known)}", key=key, found=architecture
        )
    tag = query.get("weights", tag)
    if not tag:
        columns = _num_classes(query, 1000, key)
        network = timm.create_model(architecture, pretrained=False, num_classes=columns)
        return _from_file(network, query, RowSchema(columns=columns), key)
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{architecture}.*")]
    if tag not in tags:
        raise InputError(
            f"unknown weights of {architecture}{did_you_mean(tag, tags)}",
            key=key,
            found=tag,
            accepted=", ".join(tags) or "none are published",
        )
    full_name = f"{architecture}.{tag}"
    published: Any = timm.get_pretrained_cfg(full_name)
    _num_classes(query, published.num_classes, key, fixed=True)
    schema = RowSchema(
        columns=published.num_classes,
        labels=tuple(published.label_names) if published.label_names else None,
        normalization=Normalization(tuple(published.mean), tuple(published.std)),
    )
    if "checkpoint" in query:
        return _from_file(timm.create_model(full_name, pretrained=False), query, schema, key)
    try:
        return Pretrained(timm.create_model(full_name, pretrained=True), schema)
    except (OSError, RuntimeError) as error:
        raise _unavailable(f"timm's {full_name}", error, key) from error


def _from_file(
    network: nn.Module, query: Mapping[str, str], schema: RowSchema, key: str
) -> Pretrained:
    if "checkpoint" not in query:
        raise InputError(
            "a network without weights is no teacher",
            key=key,
            accepted="?weights=NAME, or ?checkpoint=FILE&num_classes=N",
        )
    path = Path(query["checkpoint"]).expanduser()
    load_weights(
        network,
        read_checkpoint(path, key),
        key,
        nest=query.get("nest"),
        prefix=query.get("prefix"),
        rename=lambda name: _OLD_DENSENET.sub(r"\1\2", name),
        unused=_AUXILIARY.get(type(network).__name__),
        source=path,
    )
    return Pretrained(network, schema, sha256_of(path))


def _num_classes(query: Mapping[str, str], default: int, key: str, fixed: bool = False) -> int:
    text = query.get("num_classes", str(default))
    if not text.isdecimal() or int(text) < 2 or (fixed and int(text) != default):
        raise InputError(
            "num_classes is wrong",
            key=key,
            found=text,
            accepted=f"{default}, the number of these weights" if fixed else "2 or more",
        )
    return int(text)


def _download(url: str, key: str) -> Path:
    """The file of an address in torch's cache, downloaded if need be; its name holds its hash."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
    digits = expected.group(1) if expected else None
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), digits, progress=False)
        except (OSError, RuntimeError) as error:
            raise _unavailable(url, error, key) from error
    if digits and not sha256_of(path).startswith(digits):
        raise InputError(
            "a cached weight file is damaged; delete it to download it again",
            key=key,
            found=str(path),
        )
    return path


def _unavailable(what: str, error: Exception, key: str) -> InputError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"{what} cannot be downloaded ({reason})",
        key=key,
        accepted="without network, the same file from elsewhere: add ?checkpoint=FILE (or "
        "&checkpoint=FILE) to the teacher",
    )
