"""Evaluations without any training: folders with made-up predictions, as jobs would leave them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from rrr_lightning.data.glue_tasks import DIAGNOSTIC_SPLIT, TASKS
from rrr_lightning.glue.plan import PREDICTIONS, Plan, make_plan, read_plan
from rrr_lightning.glue.protocol import Protocol, find_protocol
from rrr_lightning.glue.results import GLUE, REPORTED, has_collapsed
from rrr_lightning.jobs.process import MARKER, write_json

ROWS = 200


def predictions(task: str, seed: int, quality: float) -> dict[str, np.ndarray]:
    """Labels that depend on the task alone, and predictions that are right as often as asked."""
    truth = np.random.default_rng(sum(map(ord, task)))
    random = np.random.default_rng(seed)
    arrays = {}
    for split in (*TASKS[task].validation_splits, *TASKS[task].test_splits):
        classes = len(TASKS[task].labels)
        if classes:
            labels = truth.integers(0, classes, ROWS)
            wrong = (labels + truth.integers(1, classes, ROWS)) % classes
            found = np.where(random.random(ROWS) < quality, labels, wrong)
        else:
            labels = truth.uniform(0, 5, ROWS).astype(np.float32)
            found = labels + random.normal(size=ROWS) * 5 * (1 - quality)
        arrays[f"{split}.predictions"] = found
        if split in TASKS[task].validation_splits:
            arrays[f"{split}.labels"] = labels
    return arrays


def diagnostic() -> np.ndarray:
    """Predictions of the diagnostic set, as the job of MNLI leaves them where the data have it."""
    return np.random.default_rng(0).integers(0, 3, ROWS)


def finish(
    folder: Path,
    task: str,
    seed: int,
    quality: float,
    subset: bool = False,
    computed: tuple[str, str] = ("cpu", "32-true"),
    constant: float | None = None,
) -> None:
    """Leaves in a job's folder what its job would; with predictions that are all `constant`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = predictions(task, seed, quality)
    if constant is not None:
        for name in [name for name in arrays if name.endswith(".predictions")]:
            arrays[name] = np.full_like(arrays[name], constant)
    if task == "mnli":
        arrays[f"{DIAGNOSTIC_SPLIT}.predictions"] = diagnostic()
    np.savez_compressed(folder / PREDICTIONS, **arrays)
    metrics = {
        metric.name: metric(arrays[f"{metric.split}.predictions"], arrays[f"{metric.split}.labels"])
        for metric in REPORTED[task]
    }
    splits = ("train", *TASKS[task].validation_splits)
    official = {split: TASKS[task].rows[split] for split in splits}
    rows = {**official, "train": 1000} if subset else official
    result = {"metrics": metrics, "rows": rows, "official_rows": official, "steps": 1, "seconds": 1}
    result["collapsed"] = has_collapsed(
        (arrays[f"{split}.predictions"], arrays[f"{split}.labels"])
        for split in TASKS[task].validation_splits
    )
    device, precision = computed
    result |= {"device": device, "precision": precision}
    write_json(folder / MARKER, {"result": result})


def finish_again(folder: Path, task: str, seed: int, computed: tuple[str, str]) -> None:
    """Leaves in the folder of an evaluation what the job would on another device."""
    home = run_folder(folder, f"{task}-{seed}")
    shutil.rmtree(home)
    finish(home, task, seed, 0.8, computed=computed)


def collapse(folder: Path, task: str, *seeds: int, constant: float = 0) -> None:
    """Has runs of an evaluation predict the same for every row."""
    for seed in seeds:
        finish(run_folder(folder, f"{task}-{seed}"), task, seed, 0.8, constant=constant)


def run_folder(folder: Path, name: str) -> Path:
    """The folder of a run of an evaluation."""
    return {run.name: run.folder for run in read_plan(folder, "--out").runs(folder)}[name]


def evaluation(
    folder: Path,
    tasks: tuple[str, ...] = GLUE,
    quality: float = 0.8,
    seeds: tuple[int, ...] = (1, 2, 3),
    subset: tuple[str, ...] = (),
    protocol: Protocol | None = None,
    data_sha256: dict[str, str] | None = None,
) -> Plan:
    """Makes the folder of a finished evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    protocol = protocol or find_protocol("quick", seeds=seeds)
    plan = make_plan("hub/name", "data", tasks, protocol, False)
    known = {task: data_sha256 or {"train": "abc"} for task in (*tasks, "mnli")}
    plan = dataclasses.replace(plan, checkpoint=f"{folder.name}.ckpt", data_sha256=known)
    plan.write(folder)
    for run in plan.runs(folder):
        if run.reported:
            finish(run.folder, run.task, run.seed, quality, run.task in subset)
    return plan
