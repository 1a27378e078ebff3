"""Stored teacher targets: written once, in the order of the steps, for any number of students.

    FOLDER/targets.json                      what they are targets of, and how they are kept
    FOLDER/shards/00000100.safetensors       the targets of some steps, named after the first one

Steps are those that are distilled, numbered from 0 on. Within a step the rows lie in the order of
the samples in the global batch, so that any rank and micro-batch finds its own. A shard appears
whole or not at all, and is never written again; what is missing can be written later.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.sparse_targets import Arrays, Encoding, SparseTargets
from rrr_lightning.distillation.weight_files import Damaged, add_checksum, check_checksum
from rrr_lightning.errors import InputError, check
from rrr_lightning.files import PART, atomic_file, atomic_path, content_of, read_json

MANIFEST = "targets.json"
SHARDS = "shards"
VERSION = 2
KEY = "distillation.targets"
COUNTS = "rows_of_samples"
DIGEST = "sha256"


@dataclass(frozen=True)
class TargetPlan:
    """What a folder of targets holds, or will hold.

    Args:
        encoding: What is kept of a row.
        steps: The optimizer steps that have targets.
        shards: For each shard the number of its first step among `steps`, and of the one after its
            last.
        global_batch_size: Samples of a step.
        has_counts: Whether samples have varying numbers of rows, as texts with masked tokens do.
        pool: How teachers were drawn and combined.
        teachers: Name and SHA-256 of each teacher.
        run: What the targets depend on besides, by configuration key; plain types.
    """

    encoding: Encoding
    steps: range
    shards: tuple[tuple[int, int], ...]
    global_batch_size: int
    has_counts: bool
    pool: TeacherPool
    teachers: tuple[Mapping[str, str], ...]
    run: Mapping[str, Any]

    def identity(self) -> str:
        """Returns a SHA-256 of everything but the number of steps, which may grow."""
        content = self.as_json()
        del content["steps"], content["shards"]
        return _digest(content)

    def as_json(self) -> dict[str, Any]:
        """Returns the content of the manifest."""
        return {
            "version": VERSION,
            "encoding": asdict(self.encoding),
            "steps": [self.steps.start, self.steps.stop, self.steps.step],
            "shards": [list(shard) for shard in self.shards],
            "global_batch_size": self.global_batch_size,
            "has_counts": self.has_counts,
            "pool": asdict(self.pool),
            "teachers": [dict(teacher) for teacher in self.teachers],
            "run": dict(self.run),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> TargetPlan:
        """Returns the plan in the content of a manifest."""
        plan = cls(
            encoding=Encoding(**content["encoding"]),
            steps=range(*content["steps"]),
            shards=tuple((first, stop) for first, stop in content["shards"]),
            global_batch_size=content["global_batch_size"],
            has_counts=content["has_counts"],
            pool=TeacherPool(**content["pool"]),
            teachers=tuple(content["teachers"]),
            run=dict(content["run"]),
        )
        encoding, ends = plan.encoding, [0, *(stop for _, stop in plan.shards)]
        sizes = (plan.global_batch_size, encoding.columns)
        check(all(type(n) is int and n > 0 for n in sizes), KEY, sizes, "whole numbers from 1")
        check(type(plan.has_counts) is bool, KEY, plan.has_counts, "true or false")
        known = all(isinstance(each, str) for part in plan.teachers for each in part.values())
        check(known, KEY, None, "teachers with a name and a SHA-256")
        if encoding.temperature is not None:
            check(0 < encoding.temperature < math.inf, KEY, encoding.temperature, "above 0")
        in_order = all(
            type(stop) is int and first == before < stop
            for (first, stop), before in zip(plan.shards, ends, strict=False)
        )
        check(in_order and ends[-1] == len(plan.steps), KEY, None, "shards of all steps, in order")
        plan.pool.check(len(plan.teachers))
        return plan

    def extended(self, steps: range, steps_per_shard: int) -> TargetPlan:
        """Returns the plan for more steps, the shards that it has as they are."""
        shards, begin = list(self.shards), self.shards[-1][1] if self.shards else 0
        for first in range(begin, len(steps), steps_per_shard):
            shards.append((first, min(first + steps_per_shard, len(steps))))
        return replace(self, steps=steps, shards=tuple(shards))


def read_plan(folder: Path) -> TargetPlan | None:
    """Returns the plan in a folder, None where there is none."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    content = read_json(path, KEY)
    with content_of(path, KEY):
        version = content["version"]
        if version == VERSION:
            stated = content.pop(DIGEST)
            check(stated == _digest(content), KEY, None, "as written", f"{path} was changed")
            return TargetPlan.from_json(content)
    raise InputError(
        f"{path} is of another version", key=KEY, found=version, accepted=f"version {VERSION}"
    )


def write_plan(folder: Path, plan: TargetPlan) -> None:
    """Writes the plan so that the folder holds either the former one or the whole new one."""
    (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    content = plan.as_json()
    content[DIGEST] = _digest(content)
    with atomic_file(folder / MANIFEST) as file:
        file.write(f"{json.dumps(content, indent=1)}\n".encode())


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shard_path(folder: Path, first: int) -> Path:
    """Returns where the shard is that begins with the step of this number."""
    return folder / SHARDS / f"{first:08d}.safetensors"


def write_shard(
    path: Path, steps: Sequence[Arrays], counts: Sequence[npt.NDArray[np.generic]] | None
) -> None:
    """Writes a shard, whole or not at all."""
    arrays = {name: np.concatenate([step[name] for step in steps]) for name in steps[0]}
    if counts is not None:
        arrays[COUNTS] = np.concatenate(list(counts)).astype(np.uint16)
    with atomic_path(path) as part:
        save_file(arrays, part)
        add_checksum(part, path.stem)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed writer left."""
    for part in (folder / SHARDS).glob(f".*{PART}"):
        part.unlink()


def missing_shards(folder: Path, plan: TargetPlan) -> list[tuple[int, int]]:
    """Returns the shards that are still to be written."""
    return [shard for shard in plan.shards if not shard_path(folder, shard[0]).exists()]


class TargetStore:
    """Reads targets from a folder; what lies on the disk is mapped, and read when asked for.

    Args:
        folder: What `rrr targets` wrote.

    Raises:
        InputError: There are no targets, or not all of them.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        plan = read_plan(self.folder)
        if plan is None:
            raise InputError(
                f"there is no {MANIFEST} in the folder",
                key=KEY,
                found=str(folder),
                accepted="a folder that `rrr targets` wrote",
            )
        self.plan = plan
        missing = missing_shards(self.folder, plan)
        if missing:
            raise InputError(
                f"{len(missing)} of {len(plan.shards)} shards are missing, the first for step "
                f"{plan.steps[missing[0][0]]}",
                key=KEY,
                found=str(folder),
                accepted="a finished folder; the command that wrote it goes on from here",
            )
        self._starts = [first for first, _ in plan.shards]
        self._number = -1
        self._shard: Any = None
        self._rows_before: npt.NDArray[np.int64] | None = None

    def read(self, step: int, places: range) -> SparseTargets:
        """Returns the targets of some samples of a step."""
        ordinal = self.plan.steps.index(step)
        number = int(np.searchsorted(self._starts, ordinal, side="right")) - 1
        if number != self._number:
            self._open(number)
        size = self.plan.global_batch_size
        base = (ordinal - self._starts[number]) * size
        first, stop = base + places.start, base + places.stop
        if self._rows_before is not None:
            first, stop = self._rows_before[first], self._rows_before[stop]
        encoding = self.plan.encoding
        arrays = {name: self._shard.get_slice(name)[first:stop] for name in encoding.widths}
        numbers = (arrays[name] for name in ("classes", "top") if name in arrays)
        if any(each.max(initial=0) >= encoding.columns for each in numbers) or any(
            np.isnan(each).any() or np.isposinf(each).any() for each in arrays.values()
        ):
            self._refuse(number, "it holds NaN or infinity, or classes that there are not")
        return SparseTargets.of(arrays)

    def close(self) -> None:
        """Lets go of the file that is open."""
        self._number, self._shard, self._rows_before = -1, None, None

    def _open(self, number: int) -> None:
        path = shard_path(self.folder, self._starts[number])
        first, stop = self.plan.shards[number]
        rows = samples = (stop - first) * self.plan.global_batch_size
        self.close()
        try:
            check_checksum(path, path.stem)
            self._shard = safe_open(path, framework="np")
            if self.plan.has_counts:
                counts = self._shard.get_tensor(COUNTS)
                self._rows_before = np.concatenate([[0], counts.cumsum(dtype=np.int64)])
                rows = int(self._rows_before[-1])
                self._check_array(number, COUNTS, (samples,), "u")
            for name, width in self.plan.encoding.widths.items():
                kind = "u" if name in ("classes", "top") else "f"
                self._check_array(number, name, (rows,) if width is None else (rows, width), kind)
        except (Damaged, SafetensorError, OSError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            self._refuse(number, str(error), error)
        self._number = number

    def _check_array(self, number: int, name: str, shape: tuple[int, ...], kind: str) -> None:
        found = self._shard.get_slice(name)
        if tuple(found.get_shape()) != shape or found[:0].dtype.kind != kind:
            self._refuse(number, f"its array {name!r} is not of the shape and type that it had")

    def _refuse(self, number: int, why: str, error: Exception | None = None) -> NoReturn:
        name = shard_path(self.folder, self._starts[number]).name
        raise InputError(
            f"the shard {name} cannot be read ({why})",
            key=KEY,
            found=str(self.folder),
            accepted="the file as it was written; without it, `rrr targets` writes it again",
        ) from error
