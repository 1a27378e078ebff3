"""The zip as the benchmark's server takes it: names, headers, row numbers and label words."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rrr_lightning.data.glue_tasks import DIAGNOSTIC, DIAGNOSTIC_SPLIT, TASKS
from rrr_lightning.errors import InputError
from rrr_lightning.glue.plan import PREDICTIONS
from rrr_lightning.glue.results import GLUE
from rrr_lightning.glue.submission import FILES, file_name, write_submission
from tests.glue.made import diagnostic, evaluation, run_folder

# From the sample submission of the benchmark: the lines of every file, its header among them, and
# the words that may stand in it.
LINES = {
    "AX.tsv": 1105,
    "CoLA.tsv": 1064,
    "MNLI-m.tsv": 9797,
    "MNLI-mm.tsv": 9848,
    "MRPC.tsv": 1726,
    "QNLI.tsv": 5464,
    "QQP.tsv": 390966,
    "RTE.tsv": 3001,
    "SST-2.tsv": 1822,
    "STS-B.tsv": 1380,
    "WNLI.tsv": 147,
}
WORDS = {
    "AX.tsv": {"entailment", "neutral", "contradiction"},
    "CoLA.tsv": {"0", "1"},
    "SST-2.tsv": {"0", "1"},
    "MRPC.tsv": {"0", "1"},
    "QQP.tsv": {"0", "1"},
    "MNLI-m.tsv": {"entailment", "neutral", "contradiction"},
    "MNLI-mm.tsv": {"entailment", "neutral", "contradiction"},
    "QNLI.tsv": {"entailment", "not_entailment"},
    "RTE.tsv": {"entailment", "not_entailment"},
    "WNLI.tsv": {"0", "1"},
}


@pytest.fixture
def archive(tmp_path: Path) -> zipfile.ZipFile:
    record = evaluation(tmp_path, (*GLUE, "wnli"), seeds=(1, 2))
    path = tmp_path / "sub" / "out.zip"
    absent = write_submission(record.results(tmp_path), record.runs(tmp_path), path)
    assert absent == [f"{name} with {LINES[name] - 1:,} rows, not 200" for name in FILES]
    return zipfile.ZipFile(path)


def test_the_files_and_sizes_are_those_of_the_sample() -> None:
    assert sorted(FILES) == sorted(LINES)
    sizes = {
        file_name(task, split): 1 + task.rows[split]
        for task in TASKS.values()
        for split in task.test_splits
    }
    sizes[file_name(DIAGNOSTIC, DIAGNOSTIC_SPLIT)] = 1 + DIAGNOSTIC.rows["test"]
    assert sizes == LINES


def test_every_file_of_the_sample_is_there_in_its_format(archive: zipfile.ZipFile) -> None:
    with archive:
        assert sorted(archive.namelist()) == sorted(LINES)
        for name in archive.namelist():
            lines = archive.read(name).decode().splitlines()
            assert lines[0] == "index\tprediction"
            rows = [line.split("\t") for line in lines[1:]]
            assert [int(number) for number, _ in rows] == list(range(200))
            if name in WORDS:
                assert {word for _, word in rows} == WORDS[name]
            else:
                assert name == "STS-B.tsv"
                assert all(0 <= float(word) <= 5 for _, word in rows)


def test_the_best_seed_on_validation_is_taken(archive: zipfile.ZipFile, tmp_path: Path) -> None:
    results = evaluation(tmp_path / "again", ("rte",), seeds=(1, 2)).results(tmp_path / "again")
    scores = results.tasks[0].scores
    best = max(scores, key=lambda seed: scores[seed])
    with np.load(run_folder(tmp_path, f"rte-{best}") / PREDICTIONS) as arrays:
        wanted = arrays["test.predictions"]
    with archive:
        lines = archive.read("RTE.tsv").decode().splitlines()[1:]
    # Label 1 of RTE is `not_entailment`.
    assert [line.endswith("\tnot_entailment") for line in lines] == list(wanted == 1)


def test_the_network_of_mnli_predicts_the_diagnostic_set(archive: zipfile.ZipFile) -> None:
    with archive:
        lines = archive.read("AX.tsv").decode().splitlines()[1:]
    words = ("entailment", "neutral", "contradiction")
    assert [line.split("\t")[1] for line in lines] == [words[each] for each in diagnostic()]


def test_missing_files_are_named(tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("rte",), seeds=(1,))
    path = tmp_path / "out.zip"
    absent = write_submission(record.results(tmp_path), record.runs(tmp_path), path)
    short = "RTE.tsv with 3,000 rows, not 200"
    assert absent == [short if name == "RTE.tsv" else name for name in FILES]


def test_nothing_is_missing_in_files_of_the_official_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = evaluation(tmp_path, ("rte",), seeds=(1,))
    rte = dataclasses.replace(TASKS["rte"], rows={**TASKS["rte"].rows, "test": 200})
    monkeypatch.setitem(TASKS, "rte", rte)
    path = tmp_path / "out.zip"
    absent = write_submission(record.results(tmp_path), record.runs(tmp_path), path)
    assert absent == [name for name in FILES if name != "RTE.tsv"]


def test_runs_without_test_predictions_are_named(tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("mnli",), seeds=(1,))
    path = run_folder(tmp_path, "mnli-1") / PREDICTIONS
    with np.load(path) as arrays:
        left = {name: array for name, array in arrays.items() if not name.startswith("test")}
    np.savez(path, **left)
    with pytest.raises(InputError, match=r"--submission: the run has not predicted .*mnli-1-\w+'"):
        write_submission(record.results(tmp_path), record.runs(tmp_path), tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()
