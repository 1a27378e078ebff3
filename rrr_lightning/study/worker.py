"""The process of a job: several `rrr fit`, one after the other, in forks of this process.

    python -m rrr_lightning.study.worker batch.json            # runs of a study
    python -m rrr_lightning.study.worker --timing run.yaml ... # a few timed steps of each

Python and its packages are started once for all runs, which for short runs is most of their time.
Every run has a process of its own, so it is the same as `rrr fit` alone. A finished run leaves its
record before the next one starts; a run that has a record is not repeated.
"""

from __future__ import annotations

import importlib
import os
import runpy
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning.errors import InputError, check
from rrr_lightning.files import read_json
from rrr_lightning.jobs.process import write_json
from rrr_lightning.metrics_file import read_rows
from rrr_lightning.study.config import value_at
from rrr_lightning.study.plan import checkpoint_in
from rrr_lightning.study.results import (
    LEDGER,
    VALIDATED,
    VERSION,
    Record,
    never_logged,
    read_record,
    write_record,
)

CONFIG = "run.yaml"
METRICS = "metrics.csv"
PRELOADED = "rrr_lightning.cli"  # what every run imports, so it is imported before any fork
WRONG_INPUT = 2
CURVE_ROWS = 100
COPIED = ("run", "role", "arm", "steps", "seed", "fingerprint", "teachers")


class LastValidation(Callback):
    """Makes the last step one that is validated, whatever `val_check_interval` is.

    Writes the metrics and the size of every validation to `validated.json` in the run folder: for
    `rrr validate` of a run that was killed between its last checkpoint and its last validation, and
    for the timing of a few steps.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Sets `should_stop` at the last step, so that Lightning validates before it ends."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the metrics, and how many batches were used and how many there are."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        loader = trainer.val_dataloaders
        try:
            batches = None if loader is None else len(loader)
        except TypeError:  # a stream
            batches = None
        content = {
            "metrics": {key: float(value) for key, value in trainer.callback_metrics.items()},
            "batches": batches,
            "used": sum(int(each) for each in trainer.num_val_batches),
            "accumulation": trainer.accumulate_grad_batches,
        }
        write_json(Path(trainer.default_root_dir, VALIDATED), content)


def main(arguments: Sequence[str]) -> int:
    """Runs all runs of a batch file; returns the exit code of the first that fails."""
    importlib.import_module(PRELOADED)
    if arguments[0] == "--timing":
        return next(filter(None, map(_time, map(Path, arguments[1:]))), 0)
    codes = [fit_one(run) for run in read_json(Path(arguments[0]))]
    return next(filter(None, codes), 0)


def _time(config: Path) -> int:
    shutil.rmtree(config.parent / "checkpoints", ignore_errors=True)
    return forked("fit", "--config", str(config))


def fit_one(run: Mapping[str, Any]) -> int:
    """Trains one run to its end, evaluates it and writes its record; returns an exit code."""
    home, folder = Path(run["home"]), Path(run["folder"])
    before = read_record(home, run["run"])
    if before is not None and (run["role"] == "student" or checkpoint_in(folder).exists()):
        return 0
    print(f"--- {run['run']}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG
    config.write_text(yaml.safe_dump(run["config"], sort_keys=False))
    code = forked("fit", "--config", str(config), "--ckpt_path", "last")
    if code:
        return code
    try:
        ledger = _ledger(run, folder)
        curve = _curve(run, folder, config)
        quality = _evaluate(run, folder, curve)
    except InputError as error:
        sys.stderr.write(f"rrr: error: {error}\n")
        return WRONG_INPUT
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{run['run']} could not be evaluated: exit code {error.returncode}\n")
        return 1
    record = {
        **{key: run[key] for key in COPIED},
        "config": run["settings"],
        "quality": quality,
        "curve": thin(curve),
        "ledger": ledger,
        "hardware": ledger["hardware"],
        "trained_again": 0 if before is None else before["trained_again"] + 1,
        "version": VERSION,
    }
    write_record(home, cast(Record, record))
    return 0


def forked(*arguments: str) -> int:
    """Runs `rrr` in a fork of this process; returns its exit code."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.argv = ["rrr", *arguments]
            # As `__main__`, so that the processes Lightning starts for more devices are `rrr` too.
            runpy.run_module("rrr_lightning", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _ledger(run: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the ledger of a run that has ended, the study's own teachers named after their runs.

    Without all steps the run would look too cheap, so that is refused.
    """
    ledger: dict[str, Any] = read_json(folder / LEDGER)
    steps = ledger["steps"] - ledger["redone_steps"]
    check(
        steps == run["steps"], "ledger", f"{steps} steps",
        f"{run['steps']}; to train this run again, remove its folder",
        f"{folder / LEDGER} does not have every step of {run['run']}",
    )  # fmt: skip
    for teacher, name in zip(ledger["teachers"], run["pool"], strict=True):
        if name in run["teachers"]:
            teacher.update(name=name, ledger=None)  # that is in the teacher's own record
    return ledger


def _curve(run: Mapping[str, Any], folder: Path, config: Path) -> list[dict[str, float]]:
    """Returns the metrics of a run that has ended, those of its last step among them."""
    curve = read_curve(folder)
    steps = run["steps"]
    if any(row["step"] == steps and any(key.startswith("val/") for key in row) for row in curve):
        return curve
    # Killed after its last checkpoint and before its last validation, or without validation data.
    code = forked("validate", "--config", str(config), "--ckpt_path", "last")
    if code:
        raise subprocess.CalledProcessError(code, "rrr validate")
    return [*curve, {"step": steps, **read_json(folder / VALIDATED)["metrics"]}]


def _evaluate(
    run: Mapping[str, Any], folder: Path, curve: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Returns the quality of a run that has ended."""
    metric, steps, value = run["metric"], run["steps"], None
    if run["command"] is not None:
        subprocess.run(run["command"], check=True)
        file, key = run["result"]
        value = value_at(read_json(folder / file), key)
        if not isinstance(value, int | float):
            raise InputError(f"is no number in {file}", key=f"quality.key {key}", found=value)
    elif run["role"] == "student":
        value = final_value(curve, metric, steps)
    else:
        value = next((row[metric] for row in reversed(curve) if metric in row), None)
    return {"metric": metric, "value": value, "step": steps}


def final_value(curve: Sequence[Mapping[str, float]], metric: str, steps: int) -> float:
    """Returns a metric at the end of a run, which must have logged it there."""
    logged = sorted({key for row in curve for key in row} - {"step"})
    if metric not in logged:
        raise never_logged(metric, logged)
    values = [row[metric] for row in curve if metric in row and row["step"] == steps]
    what = "is not logged at the last step of a run"
    check(bool(values), "quality.metric", metric, "a metric of the validation", what)
    return values[-1]


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Returns the metrics that a run has logged, by optimizer steps done."""
    _, rows = read_rows(folder / METRICS)
    return [
        {"step": int(row["step"]) + 1}
        | {key: float(value) for key, value in row.items() if key != "step" and value}
        for row in rows
    ]


def thin(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Returns a curve as records have it: validations, and evenly chosen rows of the others.

    The costs logged by step are left out, as the ledger has them.
    """

    def rounded(key: str, value: float) -> float:
        return int(value) if key == "step" else float(f"{value:.6g}")

    every = max(1, len(curve) // CURVE_ROWS)
    return [
        {key: rounded(key, value) for key, value in row.items() if not key.startswith("cost/")}
        for position, row in enumerate(curve)
        if position % every == 0 or any(key.startswith("val/") for key in row)
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
