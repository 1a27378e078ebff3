"""What the writing of targets costs: a ledger like that of a training run, without a student."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from rrr_lightning.callbacks._clock import DeviceClock
from rrr_lightning.callbacks._hardware import describe_git, describe_hardware, describe_versions
from rrr_lightning.callbacks._ledger import (
    FILE,
    OTHER,
    WAIT,
    add_part,
    new_ledger,
    read_ledger,
    write_ledger,
)
from rrr_lightning.callbacks._session import Session
from rrr_lightning.callbacks._sources import LiveTeachers
from rrr_lightning.targets.batches import ComingBatch


class WritingLedger:
    """Measures the writing of targets; the clock starts when it is made.

    Args:
        folder: That of the targets, in which `ledger.json` is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._session = Session()
        self._paid = new_ledger()
        self._about: dict[str, Any] = {}

    def begin(self, trainer: Trainer, source: LiveTeachers) -> None:
        """Begins to measure the teachers; goes on from the ledger of a run that was stopped."""
        device = trainer.strategy.root_device
        hardware = describe_hardware(device)
        self._about = {
            "hardware": hardware,
            "versions": describe_versions(),
            "git": describe_git(),
            "teachers": source.taught_by(),
        }
        there = read_ledger(self._file)
        if there is not None:
            mixed = there["mixed_hardware"] or there["hardware"] != hardware
            self._paid = {**there, "mixed_hardware": mixed}
        self._session.place(device)
        if device.type == "cuda":
            self._session.clock = DeviceClock(self._session.clock)
        source.meter = self._session

    def fetched(self, batches: Iterator[ComingBatch]) -> Iterator[ComingBatch]:
        """Yields batches, and books the time until each one is there to waiting."""
        self._session.clock.enter(WAIT)
        for coming in batches:
            self._session.clock.enter(OTHER)
            self._session.see(coming.batch)
            yield coming
            self._session.clock.enter(WAIT)
        self._session.clock.enter(OTHER)

    def end_step(self) -> None:
        """Counts a step."""
        self._session.steps += 1

    def write(self) -> None:
        """Writes the ledger up to now, where anything has been done."""
        part = self._session.part()
        if part.steps:
            ledger = add_part(self._paid, part, None)
            ledger["step"] = self._paid["step"] + part.steps
            write_ledger(self._file, ledger | self._about)

    def end(self) -> None:
        """Waits for what the clock has not read, and writes for the last time."""
        self._session.clock.finish()
        self.write()
