"""Files: written whole or not at all, identified by their SHA-256, and read within limits.

Records, manifests and configurations may come from strangers. So what is read here is a regular
file of a bounded size, its content is plain data, and no error message repeats that content.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import yaml

from rrr_lightning.errors import InputError, refuse

PART = ".part"
MOST_JSON = 64 << 20  # bytes
MOST_YAML = 1 << 20  # bytes
_DEEPEST = 100  # lists and mappings inside each other
_OF_CONTENT = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError)
_MOST_VALUES = 100_000  # of a YAML file, with every alias written out


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Gives `.NAME.part` beside `path` for a library to write, and renames it to `path` at the end.

    A reader, and a process killed at any moment, finds either the former file or the whole new one.
    After an exception (a full disk, for example) the partial file is removed and `path` is as it
    was.
    """
    target = Path(path)
    part = target.with_name(f".{target.name}{PART}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a file for writing that appears at `path` whole, or not at all; see `atomic_path`.

    >>> with atomic_file("/tmp/example.json") as file:  # doctest: +SKIP
    ...     file.write(b"{}")
    """
    with atomic_path(path) as part, part.open("wb") as file:
        yield file


def sha256_of(path: str | Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, which fsync of the file does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: str | Path, key: str | None = None, most: int = MOST_JSON) -> str:
    """Returns the content of a UTF-8 text file."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            refuse(key, None, "a regular file", f"{path} is no regular file")
        if found.st_size > most:
            refuse(key, f"{found.st_size} bytes", f"at most {most}", f"{path} is too large")
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})", key=key) from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError("is no path of a file", key=key, found=str(path)) from error
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text (byte {error.start})", key=key) from error


def read_json(path: str | Path, key: str | None = None) -> Any:
    """Returns the content of a JSON file."""
    text = read_text(path, key)
    try:
        return _with_whole_characters(text, json.loads(text, object_pairs_hook=_unique))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path} is damaged: no JSON ({where})", key=key) from error
    except (ValueError, RecursionError) as error:
        odd = "odd characters, numbers that are too long, or too many levels"
        reason = error.args[0] if isinstance(error, _Twice) else odd
        raise InputError(f"{path} is damaged: {reason}", key=key) from error


def read_yaml(path: str | Path, key: str | None = None) -> Any:
    """Returns the content of a YAML file in plain types."""
    text = read_text(path, key, MOST_YAML)
    try:
        return _with_whole_characters(text, yaml.load(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = re.sub(r"'[^']*'", "…", str(error.problem))  # without what the file holds
        raise InputError(f"{path} is not YAML ({where}{problem})", key=key) from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is not YAML (odd characters or values)", key=key) from error


@contextmanager
def content_of(path: str | Path, key: str | None = None) -> Iterator[None]:
    """Refuses a file whose content is not what the code in the block takes it for.

    What strangers write can lack anything and be of any type. So where such content is interpreted,
    the errors of Python's own types stand for a damaged file.

    >>> with content_of("a.json"):
    ...     {}["version"]
    Traceback (most recent call last):
    rrr_lightning.errors.InputError: a.json is damaged: 'version' is missing
    """
    try:
        yield
    except InputError:
        raise
    except (*_OF_CONTENT, yaml.YAMLError) as error:
        reason = "a value in it is of another kind or size than expected"
        if isinstance(error, KeyError):
            reason = f"{str(error.args[0])[:80]!r} is missing"
        raise InputError(f"{path} is damaged: {reason}", key=key) from error


def check_regular_files(folder: str | Path, key: str | None = None) -> None:
    """Refuses a folder that holds pipes, devices or sockets, on which a reader would wait."""
    for path in sorted(Path(folder).iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            refuse(key, None, "regular files", f"{path} is no regular file")


def _with_whole_characters(text: str, content: Any) -> Any:
    r"""Returns the content; half a character, which `\ud800` stands for, cannot be written."""
    if re.search(r"\\[uU]", text):
        json.dumps(content, ensure_ascii=False, default=str).encode()
    return content


class _Twice(ValueError):
    """A key that stands twice in one object; the text is for the message."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _Twice("a key stands twice in one object")
    return content


class _Loader(yaml.SafeLoader):
    """Plain types within limits; in Python, as the parser in C overflows its stack."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Composes a node, and counts the values that it stands for."""
        is_alias = self.check_event(yaml.AliasEvent)
        self.depth += 1
        if self.depth > _DEEPEST:
            self._refuse(f"more than {_DEEPEST} levels", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if is_alias:
            if not hasattr(node, "values_within"):
                self._refuse("an anchor holds itself", node.start_mark)
            return node  # type: ignore[no-any-return]
        children = node.value if isinstance(node.value, list) else []
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            children = [each for pair in children for each in pair]
        node.values_within = 1 + sum(each.values_within for each in children)
        if node.values_within > _MOST_VALUES:
            self._refuse(f"more than {_MOST_VALUES} values", node.start_mark)
        return node  # type: ignore[no-any-return]

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if (name.tag, name.value) in seen:
                    self._refuse("a key stands twice in one mapping", name.start_mark)
                seen.add((name.tag, name.value))

    def _refuse(self, problem: str, mark: yaml.Mark) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
