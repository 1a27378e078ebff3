"""The zip of test predictions that the benchmark's server takes.

One file per task, two for MNLI, with the header `index`, `prediction`, rows numbered from 0, and
labels in the benchmark's own words. Of several seeds, the one with the best validation score is
taken. The network of MNLI predicts the diagnostic set too, where the data have it. The server also
wants files for every task that was left out.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rrr_lightning.data.glue_tasks import DIAGNOSTIC, DIAGNOSTIC_SPLIT, TASKS, GlueTask
from rrr_lightning.errors import InputError
from rrr_lightning.files import atomic_file
from rrr_lightning.glue.plan import PREDICTIONS, Run
from rrr_lightning.glue.results import Results

FILES = (
    "AX.tsv",
    "CoLA.tsv",
    "MNLI-m.tsv",
    "MNLI-mm.tsv",
    "MRPC.tsv",
    "QNLI.tsv",
    "QQP.tsv",
    "RTE.tsv",
    "SST-2.tsv",
    "STS-B.tsv",
    "WNLI.tsv",
)
HEADER = "index\tprediction"


def zip_file(path: str | Path) -> Path:
    """Returns where a zip is to be written."""
    found = Path(path).expanduser()
    if found.suffix != ".zip" or found.is_dir():
        raise InputError("is no zip file", key="--submission", found=str(path), accepted="x.zip")
    return found


def check_writable(path: Path) -> None:
    """Makes the folder of a zip, and sees whether a file can be written there."""
    trial = path.with_name(f".{path.name}.try")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(
            f"cannot be written ({error.strerror})", key="--submission", found=str(path)
        ) from error


def write_submission(results: Results, runs: Sequence[Run], path: Path) -> list[str]:
    """Writes the zip; returns what the server wants and the zip lacks: files, and their rows."""
    folders = {(run.task, run.seed): run.folder for run in runs}
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = {name: name for name in FILES}
    with atomic_file(path) as whole, zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for result in results.tasks:
            task = TASKS[result.task]
            best = max(result.scores, key=lambda seed: result.scores[seed])
            file = folders[task.name, best] / PREDICTIONS
            with np.load(file, allow_pickle=False) as arrays:
                if any(f"{split}.predictions" not in arrays for split in task.test_splits):
                    raise InputError(
                        "the run has not predicted the test splits; remove its folder",
                        key="--submission",
                        found=str(file.parent),
                    )
                has_diagnostic = f"{DIAGNOSTIC_SPLIT}.predictions" in arrays
                for split in (*task.test_splits, *([DIAGNOSTIC_SPLIT] * has_diagnostic)):
                    name = file_name(task, split)
                    predictions = arrays[f"{split}.predictions"]
                    archive.writestr(name, _content(task, predictions))
                    known = {**task.rows, DIAGNOSTIC_SPLIT: DIAGNOSTIC.rows["test"]}
                    rows, given = known[split], len(predictions)
                    other = f"{name} with {rows:,} rows, not {given:,}"
                    wanted[name] = "" if given == rows else other
    return [each for each in wanted.values() if each]


def file_name(task: GlueTask, split: str) -> str:
    """Returns the official name of the file for a test split.

    >>> file_name(TASKS["mnli"], "test_mismatched")
    'MNLI-mm.tsv'
    """
    if split == DIAGNOSTIC_SPLIT:
        return f"{DIAGNOSTIC.folder}.tsv"
    suffix = {"test_matched": "-m", "test_mismatched": "-mm"}.get(split, "")
    return f"{task.folder}{suffix}.tsv"


def _content(task: GlueTask, predictions: np.ndarray[tuple[int], np.dtype[np.float64]]) -> str:
    if task.is_regression:
        words = [f"{score:.3f}" for score in np.clip(predictions, 0.0, 5.0)]
    else:
        words = [task.words[int(label)] for label in predictions]
    lines = [HEADER, *(f"{number}\t{word}" for number, word in enumerate(words))]
    return "\n".join(lines) + "\n"
