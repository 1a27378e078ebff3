"""A few steps of each kind of run on this machine: what the study will take, and what is wrong.

Teachers come first, so that the students' steps are timed with the teachers they will have. The
same steps show a key that does not exist, a teacher that does not fit, or a metric that is never
logged before hours have gone into it.
"""

from __future__ import annotations

import importlib
import io
import shutil
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.jobs import Job, Places, run_jobs
from rrr_lightning.jobs.process import MARKER, write_json
from rrr_lightning.jobs.runner import WRONG_INPUT
from rrr_lightning.study.fit_runs import PRELOADED, forked
from rrr_lightning.study.overlays import Config, digest, lay_over, value_at
from rrr_lightning.study.plan import TEACHERS, Run
from rrr_lightning.study.records import LEDGER, NOTES, never_logged
from rrr_lightning.study.settings import Quality

STEPS = 16
VALIDATION_BATCHES = 2
VERSION = 2
FOLDER = "pilot"
CONFIG = "run.yaml"
CALLBACK = "rrr_lightning.study.pilot_notes.PilotNotes"


@dataclass(frozen=True)
class Timing:
    """What a kind of run takes on this machine.

    Attributes:
        kind: The arm or the teacher.
        plain: Seconds of a step without a teacher, data wait left out; None if there was none.
        distilled: Seconds of a step with its teachers; None if there was none.
        share: Part of the steps of a long run that are distilled.
        wait: Seconds of waiting for data per step.
        teacher: Seconds of the forward passes of all teachers asked in a distilled step.
        set_up: Seconds before the first step.
        validation: Seconds of one validation.
        devices: Devices of one run.
        device: The device in words.
        accumulation: Batches of one optimizer step.
    """

    kind: str
    plain: float | None
    distilled: float | None
    share: float
    wait: float
    teacher: float
    set_up: float
    validation: float
    devices: int
    device: str
    accumulation: int = 1

    def seconds(self, run: Run) -> float:
        """Returns the seconds that a run will take, the start of Python left out."""
        plain = self.plain if self.plain is not None else self.distilled or 0.0
        distilled = self.distilled if self.distilled is not None else plain + self.teacher
        step = (1 - self.share) * plain + self.share * distilled + self.wait
        validations = _validations(run, self.accumulation)
        return self.set_up + run.steps * step + validations * self.validation


def time_runs(
    runs: Sequence[Run], home: Path, places: Places, quality: Quality
) -> dict[str, Timing]:
    """Times every kind of run, or finds what was timed before on this machine.

    Args:
        runs: All runs of the study.
        home: Its folder; the pilot's runs go into `pilot/` there.
        places: Where runs take place; the first one is timed.
        quality: Its metric has to be logged by the students.

    Returns:
        Timings by arm and teacher.

    Raises:
        InputError: A kind of run is refused or crashes, or does not log the metric.
    """
    folder = home.absolute() / FOLDER
    kinds = {run.kind: run for run in reversed(runs)}
    order = [run for run in runs if kinds.get(run.kind) is run]
    configs = {run.kind: _config(run, runs, folder) for run in order}
    key = digest([VERSION, configs, socket.gethostname(), dict(places.environments[0])])
    cache = folder / "pilot.json"
    if cache.exists() and read_json(cache)["key"] == key:
        return {kind: Timing(**values) for kind, values in read_json(cache)["timings"].items()}
    _run(configs, folder, places)
    timings = {}
    for run in order:
        notes = folder / run.kind / NOTES
        logged = read_json(notes)["metrics"] if notes.exists() else []
        if run.role == "student" and quality.command is None and quality.metric not in logged:
            raise never_logged(quality.metric, logged)
        timings[run.kind] = _read(run.kind, folder / run.kind)
    content = {kind: asdict(timing) for kind, timing in timings.items()}
    write_json(cache, {"key": key, "timings": content})
    return timings


def _config(run: Run, runs: Sequence[Run], folder: Path) -> Config:
    """Returns the configuration of a short run, with short-run teachers."""
    ours = {str(each.checkpoint): each for each in runs if each.role == "teacher"}
    told = value_at(run.config, TEACHERS) or []
    specs = [
        str(folder / ours[spec].kind / "checkpoints" / "last.ckpt") if spec in ours else spec
        for spec in ([told] if isinstance(told, str) else told)
    ]
    short: Config = {
        "trainer": {
            "max_steps": STEPS,
            "default_root_dir": str(folder / run.kind),
            "limit_val_batches": VALIDATION_BATCHES,
            "callbacks": [*value_at(run.config, "trainer.callbacks"), {"class_path": CALLBACK}],
        }
    }
    if specs:
        short["distillation"] = {"teachers": specs}
    if isinstance(value_at(run.config, "model.init_args.warmup_steps"), int):
        short["model"] = {"init_args": {"warmup_steps": 1}}
    return lay_over(run.config, short)


def _run(configs: Mapping[str, Config], folder: Path, places: Places) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    files = []
    for kind, config in configs.items():
        (folder / kind).mkdir(parents=True)
        files.append(folder / kind / CONFIG)
        files[-1].write_text(yaml.safe_dump(config, sort_keys=False))
    command = (sys.executable, "-m", "rrr_lightning.study.pilot", *map(str, files))
    job = Job(FOLDER, command, folder, 60.0)
    (folder / MARKER).unlink(missing_ok=True)
    outcome = run_jobs([job], folder, places, io.StringIO())
    for failure in outcome.failed.values():
        line = failure.line.removeprefix("rrr: error: ")
        if failure.code == WRONG_INPUT:
            raise InputError(line)
        raise InputError(f"a first few steps crashed: {line} (see {failure.log})", key="FILE")


def main(arguments: Sequence[str]) -> int:
    """Runs the configurations given; returns the exit code of the first that fails."""
    importlib.import_module(PRELOADED)
    for config in arguments:
        shutil.rmtree(Path(config).parent / "checkpoints", ignore_errors=True)
        code = forked("fit", "--config", config)
        if code:
            return code
    return 0


def _read(kind: str, folder: Path) -> Timing:
    """Reads the ledger of a pilot run."""
    ledger = read_json(folder / LEDGER)
    phases: dict[str, dict[str, Any]] = ledger["phases"]

    def seconds(name: str) -> float:
        return float(phases.get(name, {}).get("seconds") or 0.0)

    steps = max(1, ledger["steps"])
    notes = read_json(folder / NOTES) if (folder / NOTES).exists() else {}
    whole = (notes.get("batches") or VALIDATION_BATCHES) / max(1, notes.get("used") or 1)
    hardware = ledger["hardware"]
    return Timing(
        kind=kind,
        plain=ledger["step_seconds"]["plain"],
        distilled=ledger["step_seconds"]["distilled"],
        share=notes.get("share") or 0.0,
        wait=seconds("data_wait") / steps,
        teacher=notes.get("teacher_seconds") or 0.0,
        set_up=seconds("set_up"),
        validation=seconds("validation") * whole,
        devices=ledger["world_size"],
        device=hardware.get("device") or "",
        accumulation=notes.get("accumulation") or 1,
    )


def _validations(run: Run, accumulation: int) -> int:
    """How often a run is validated, as far as its configuration tells; it counts in batches."""
    interval = value_at(run.config, "trainer.val_check_interval")
    batches = run.steps * accumulation
    return 1 + (batches - 1) // interval if isinstance(interval, int) and interval else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
