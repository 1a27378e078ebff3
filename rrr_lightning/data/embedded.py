"""Real data that every installation has: handwritten digits, prose of installed packages."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import platform
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rrr_lightning.data.module import KeyedDataModule
from rrr_lightning.data.sampling import Key
from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import keyed_permutation


class StoredImages:
    """Images and labels held in memory.

    Args:
        images: uint8 of shape [N, 3, H, W].
        labels: int64 of shape [N].
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keys: Sequence[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        indices = torch.tensor([index for _, index in keys])
        return self.images[indices], self.labels[indices]


class EmbeddedDigits(KeyedDataModule):
    """The 1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn.

    400 to train and 1,397 to validate, the same for every seed. Batches are
    `(images, labels)`: uint8 [B, 3, 8, 8] with three equal channels, int64 [B].

    Args:
        global_batch_size: Samples of one optimizer step, over all devices and micro-batches.
        micro_batch_size: The most samples per device and forward pass; by default a device's share.
        eval_batch_size: Samples per device in evaluation.
        num_workers: Processes that load data, per device.
        seed: Seed of the order; by default that of `seed_everything`, or 0.
    """

    num_classes = 10
    class_names = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        global_batch_size: int = 40,
        micro_batch_size: int | None = None,
        eval_batch_size: int | None = 512,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(global_batch_size, micro_batch_size, eval_batch_size, num_workers, seed)

    def load(self) -> tuple[StoredImages, StoredImages]:
        """Returns the two parts of the digits."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        images = torch.from_numpy(grey).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
        labels = torch.from_numpy(digits.target).long()
        order = keyed_permutation(len(labels), "digits")
        train, rest = order[:400], order[400:]
        return StoredImages(images[train], labels[train]), StoredImages(images[rest], labels[rest])


# ----------------------------------------------------------------------
# Real English that every installation has: documentation of Python and of installed packages.


# Module and the name of its distribution; all are required by this package, directly or not.
PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "transformers": "transformers",
    "datasets": "datasets",
    "lightning": "lightning",
    "torchmetrics": "torchmetrics",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "networkx": "networkx",
}
# Folders with little to read for their size; the `models` of transformers repeat each other.
SKIPPED_FOLDERS = re.compile(r"_.*|tests?|testing|models")
RULES = 1  # to be raised when the rules below change
SHORTEST_DOCUMENT, FEWEST_WORDS, PLAIN_SHARE = 120, 8, 0.8
VALIDATION_SHARE = 0.05

_MARKUP = (
    (re.compile(r":[\w:]+:`~?([^`<]+?)(?:\s*<[^>]*>)?`"), r"\1"),  # :func:`name`
    (re.compile(r"`([^`<]+?)\s*<[^>]*>`_+"), r"\1"),  # `words <address>`_
    (re.compile(r"`+([^`]*)`+_*|\*\*([^*]+)\*\*"), r"\1\2"),
    (re.compile(r"\s*\[\d+\]_?"), ""),  # [1]_
)
_PLAIN_WORD = re.compile(r"[(\"']*[A-Za-z][a-z]*(?:['’-][A-Za-z]?[a-z]+)*[)\"']*[.,;:!?]*\)?")
_SENTENCE_END = re.compile(r"(?<!:)[.:!?][\"')]*$")
_HEADING = re.compile(r"\s*(\w+ ){0,2}\w+:\s*|.*\S : \S.*")  # "Args:", "name : type"
_CODE_LINE = re.compile(r"\s*(>>>|\.\.\.|\.\. |[$%|+@=~*#:{}\[\]<]|-{3})")


class EmbeddedProse:
    """The documents of one split.

    Args:
        split: `train` or `validation`; a document's text decides in which of them it is.

    Raises:
        InputError: There is no such split.
    """

    def __init__(self, split: str = "train") -> None:
        if split not in ("train", "validation"):
            raise InputError(
                "embedded prose has no such split",
                key="data.train_split",
                found=split,
                accepted="train, validation",
            )
        self.split = split
        self.name = f"embedded prose, {split}"

    def __iter__(self) -> Iterator[str]:
        validates = self.split == "validation"
        return (text for text in all_prose() if _is_held_out(text) == validates)

    def fingerprint(self) -> dict[str, Any]:
        """Returns what determines the documents: versions, in plain types."""
        return {"prose": RULES, "split": self.split, "versions": installed_versions()}


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that are installed, by module."""
    versions = {"python": platform.python_version()}
    for module, distribution in PACKAGES.items():
        try:
            versions[module] = version(distribution)
        except PackageNotFoundError:
            continue
    return versions


@lru_cache(maxsize=1)
def all_prose() -> tuple[str, ...]:
    """Returns all documents in a fixed order; takes seconds, once per process."""
    seen: set[bytes] = set()
    documents = (document_of(text, seen) for text in _raw_documents())
    return tuple(text for text in documents if len(text) >= SHORTEST_DOCUMENT)


def document_of(text: str, seen: set[bytes]) -> str:
    """Returns the prose of a text: its paragraphs without code, and without those `seen` before."""
    kept = []
    for block in re.split(r"\n\s*\n", text):
        paragraph = prose_of(block)
        digest = hashlib.blake2b(paragraph.lower().encode(), digest_size=16).digest()
        if paragraph and digest not in seen:
            seen.add(digest)
            kept.append(paragraph)
    return "\n".join(kept)


def prose_of(block: str) -> str:
    r"""Returns a paragraph as one line without markup, or an empty string if it is not prose.

    >>> prose_of("The ``result`` is\nwhat a reader\nof this :class:`set` would expect.")
    'The result is what a reader of this set would expect.'
    >>> prose_of("x = compute(y)  # and so on, until there is nothing left.")
    ''
    """
    lines = block.splitlines()
    is_list = len(lines) > 1 and _HEADING.fullmatch(lines[0])
    if is_list or any(_CODE_LINE.match(line) for line in lines):
        return ""
    text = " ".join(block.split())
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    words = text.split()
    plain = sum(1 for word in words if _PLAIN_WORD.fullmatch(word))
    if len(words) < FEWEST_WORDS or plain < PLAIN_SHARE * len(words):
        return ""
    return text if text[0].isupper() and _SENTENCE_END.search(text) else ""


def docstrings(source: bytes) -> Iterator[str]:
    """Yields the docstrings of a module, its classes and functions; none if it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    yield from _docstrings_below(tree)


def _docstrings_below(node: ast.Module | ast.ClassDef | ast.If | ast.Try) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef) and (text := ast.get_docstring(node)):
        yield text
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            if text := ast.get_docstring(child):
                yield text
        elif isinstance(child, ast.ClassDef | ast.If | ast.Try):
            yield from _docstrings_below(child)


def _raw_documents() -> Iterator[str]:
    yield from _topics(Path(sysconfig.get_path("stdlib"), "pydoc_data", "topics.py"))
    for module in PACKAGES:
        found = importlib.util.find_spec(module)
        for folder in sorted(found.submodule_search_locations or [] if found else []):
            for path in _sources(Path(folder)):
                source = path.read_bytes()
                if b'"""' in source or b"'''" in source:
                    yield from docstrings(source)


def _topics(path: Path) -> Iterable[str]:
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [inspect.cleandoc(topics[name]) for name in sorted(topics)]
    return []


def _sources(folder: Path) -> list[Path]:
    def is_read(path: Path) -> bool:
        return not any(map(SKIPPED_FOLDERS.fullmatch, path.relative_to(folder).parts[:-1]))

    return sorted(filter(is_read, folder.rglob("*.py")))


def _is_held_out(text: str) -> bool:
    draw = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    return draw < VALIDATION_SHARE * 2**64
