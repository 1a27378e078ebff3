"""What a job of a study runs: several `rrr fit`, one after the other, in processes that it forks.

    python -m rrr_lightning.study.fit_runs batch.json

Python and its packages are started once for all runs, which for short runs is most of their time.
Every run has a process of its own, so it is the same as `rrr fit` alone. A finished run leaves its
record before the next one starts; what has a record is not run again.
"""

from __future__ import annotations

import importlib
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.study.overlays import value_at
from rrr_lightning.study.plan import Run
from rrr_lightning.study.records import (
    LEDGER,
    VALIDATED,
    Record,
    final_value,
    read_curve,
    read_record,
    thin,
)
from rrr_lightning.study.settings import Quality

CONFIG = "run.yaml"
# What every run imports in any case.
PRELOADED = "rrr_lightning.cli"
WRONG_INPUT = 2


def describe(run: Run, home: Path, quality: Quality) -> dict[str, Any]:
    """Returns a run as plain types, as a batch file holds it.

    Args:
        run: The run.
        home: The study's folder, where its record goes.
        quality: How it is judged.
    """
    return {
        "run": run.name,
        "role": run.role,
        "arm": run.arm,
        "steps": run.steps,
        "seed": run.seed,
        "fingerprint": run.fingerprint,
        "config": run.config,
        "settings": run.settings,
        "pool": list(run.pool),
        "teachers": list(run.teachers),
        "folder": str(run.folder),
        "home": str(home),
        "metric": quality.metric,
        "command": _command(run, quality) if run.role == "student" else None,
        "result": [quality.file, quality.key],
    }


def _command(run: Run, quality: Quality) -> list[str] | None:
    if quality.command is None:
        return None
    places = {
        "{checkpoint}": str(run.checkpoint),
        "{folder}": str(run.folder),
        "{data}": str(quality.data),
    }
    words = list(quality.command)
    for place, value in places.items():
        words = [word.replace(place, value) for word in words]
    return [sys.executable, "-m", "rrr_lightning", *words[1:]] if words[0] == "rrr" else words


def main(arguments: Sequence[str]) -> int:
    """Runs the runs of a batch file, all of them; returns the exit code of the first that fails."""
    importlib.import_module(PRELOADED)
    codes = [fit_one(told) for told in read_json(Path(arguments[0]))]
    return next(filter(None, codes), 0)


def fit_one(told: Mapping[str, Any]) -> int:
    """Runs one run to its end, judges it and writes its record; returns an exit code."""
    home, folder = Path(told["home"]), Path(told["folder"])
    before = read_record(home, told["run"])
    if before is not None and (told["role"] == "student" or _has_checkpoint(folder)):
        return 0
    print(f"--- {told['run']}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / CONFIG
    config.write_text(yaml.safe_dump(told["config"], sort_keys=False))
    code = forked("fit", "--config", str(config), "--ckpt_path", "last")
    if code:
        return code
    try:
        ledger = _with_names(_whole_ledger(told, folder), told)
        curve = _curve(told, folder, config)
        quality = _judge(told, folder, curve)
    except InputError as error:
        sys.stderr.write(f"rrr: error: {error}\n")
        return WRONG_INPUT
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{told['run']} could not be judged: exit code {error.returncode}\n")
        return 1
    names = ("run", "role", "arm", "steps", "seed", "fingerprint", "teachers")
    Record(
        **{name: told[name] for name in names},
        config=told["settings"],
        quality=quality,
        curve=thin(curve),
        ledger=ledger,
        hardware=ledger["hardware"],
        trained_again=0 if before is None else before.trained_again + 1,
    ).write(home)
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


def _curve(told: Mapping[str, Any], folder: Path, config: Path) -> list[dict[str, float]]:
    """Returns the metrics of a run that has ended, those of its last step among them."""
    curve = read_curve(folder)
    steps = told["steps"]
    if any(row["step"] == steps and any(key.startswith("val/") for key in row) for row in curve):
        return curve
    # Killed after its last checkpoint and before its last validation, or without validation data.
    code = forked("validate", "--config", str(config), "--ckpt_path", "last")
    if code:
        raise subprocess.CalledProcessError(code, "rrr validate")
    return [*curve, {"step": steps, **read_json(folder / VALIDATED)}]


def _judge(
    told: Mapping[str, Any], folder: Path, curve: Sequence[Mapping[str, float]]
) -> dict[str, Any]:
    """Returns the quality of a run that has ended."""
    metric, steps, value = told["metric"], told["steps"], None
    if told["command"] is not None:
        subprocess.run(told["command"], check=True)
        file, key = told["result"]
        value = value_at(read_json(folder / file), key)
        if not isinstance(value, int | float):
            raise InputError(f"is no number in {file}", key=f"quality.key {key}", found=value)
    elif told["role"] == "student":
        value = final_value(curve, metric, steps)
    else:
        value = next((row[metric] for row in reversed(curve) if metric in row), None)
    return {"metric": metric, "value": value, "step": steps}


def _whole_ledger(told: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the ledger of a run that has ended.

    Raises:
        InputError: It does not tell of all steps, so that the run would look too cheap.
    """
    ledger: dict[str, Any] = read_json(folder / LEDGER)
    steps = ledger["steps"] - ledger["redone_steps"]
    if steps != told["steps"]:
        raise InputError(
            f"{folder / LEDGER} does not tell of every step of {told['run']}",
            key="ledger",
            found=f"{steps} steps",
            accepted=f"{told['steps']}; to train this run again, remove its folder",
        )
    return ledger


def _with_names(ledger: dict[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Names the study's own teachers, whose ledgers are in their records, after their runs."""
    for teacher, name in zip(ledger["teachers"], told["pool"], strict=True):
        if name in told["teachers"]:
            teacher.update(name=name, ledger=None)
    return ledger


def _has_checkpoint(folder: Path) -> bool:
    return (folder / "checkpoints" / "last.ckpt").exists()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
