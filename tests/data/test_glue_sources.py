from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from rrr_lightning.data.glue_sources import has_diagnostic, read_split
from rrr_lightning.data.glue_tasks import DIAGNOSTIC, TASKS
from rrr_lightning.errors import InputError
from tests.data.glue_files import parquet_rows, text, write_diagnostic, write_parquet

RTE = TASKS["rte"]


@pytest.mark.parametrize("task", list(TASKS))
def test_the_test_data_are_read_whole(rrr_data: Path, task: str) -> None:
    """Splits that are no subset have the official number of rows."""
    subsets = {"qnli": {"train"}, "qqp": {"train", "validation"}, "mnli": {"train"}}
    subsets["mnli"].add("validation_mismatched")
    found = TASKS[task]
    for split in found.validation_splits if task == "sst2" else ("train", *found.validation_splits):
        rows = read_split(str(rrr_data / "glue"), found, split)
        assert (len(rows) == found.rows[split]) == (split not in subsets.get(task, set()))
        assert rows.labels is not None
        assert len(rows.labels) == len(rows.texts[-1]) == len(rows)


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    table = parquet_rows(RTE, 30)
    (tmp_path / "rte").mkdir()
    for part, chosen in enumerate((range(20), range(20, 30))):
        name = f"train-0000{part}-of-00002.parquet"
        table.select(chosen).to_parquet(str(tmp_path / "rte" / name))
    rows = read_split(str(tmp_path), RTE, "train")
    assert rows.texts[0] == table["sentence1"][:]
    assert rows.labels == table["label"][:]


def test_test_splits_have_no_labels(tmp_path: Path) -> None:
    root = str(write_parquet(tmp_path, "mnli"))
    assert read_split(root, TASKS["mnli"], "test_mismatched").labels is None


def test_rows_to_predict_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    table = parquet_rows(RTE, 30).select(range(29, -1, -1))
    (tmp_path / "rte").mkdir()
    file = str(tmp_path / "rte" / "test.parquet")
    table.to_parquet(file)
    assert read_split(str(tmp_path), RTE, "test").texts[0] == table["sentence1"][:]
    table.add_column("idx", list(range(29, -1, -1))).to_parquet(file)
    assert read_split(str(tmp_path), RTE, "test").texts[0] == table["sentence1"][::-1]


def test_a_hub_id_is_asked_for_task_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(*where: str, split: str) -> datasets.Dataset:
        asked.append((*where, split))
        return parquet_rows(RTE, 12).select(range(2, 10))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows = read_split("nyu-mll/glue", RTE, "train")
    assert asked == [("nyu-mll/glue", "rte", "train")]
    assert rows.texts[0] == [text(number) for number in range(2, 10)]
    assert rows.labels == [number % 2 for number in range(2, 10)]


def test_the_diagnostic_set_of_a_folder(tmp_path: Path) -> None:
    write_parquet(tmp_path, "mnli")
    assert not has_diagnostic(str(tmp_path))
    write_diagnostic(tmp_path)
    assert has_diagnostic(str(tmp_path))
    rows = read_split(str(tmp_path), DIAGNOSTIC, "test")
    assert (rows.texts[0], rows.labels) == ([text(number) for number in range(5)], None)


def test_the_diagnostic_set_as_the_hub_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ax").mkdir()
    parquet_rows(DIAGNOSTIC, 9, labelled=False).to_parquet(str(tmp_path / "ax/test.parquet"))
    assert len(read_split(str(tmp_path), DIAGNOSTIC, "test")) == 9
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda source: [source, "ax"])
    assert has_diagnostic("nyu-mll/glue")
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda source: ["cola", "mnli"])
    assert not has_diagnostic("owner/copy")


# ------------------------------------------------------------------------------ bad input


def test_a_hub_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(source: str) -> list[str]:
        raise RuntimeError("retries") from ConnectionError("no route")

    monkeypatch.setattr(datasets, "get_dataset_config_names", no_network)
    with pytest.raises(InputError, match=r"data\.source: is no data set .* reached \(no route\)"):
        has_diagnostic("owner/unknown")


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"data\.source: is neither a folder here nor .* rte, train"
    ):
        read_split("owner/unknown", RTE, "train")
    (tmp_path / "file").touch()
    for source in (str(tmp_path / "missing"), str(tmp_path / "file")):
        with pytest.raises(InputError, match=r"data\.source: no such folder; found"):
            read_split(source, RTE, "train")


def test_a_folder_without_the_files_of_the_task_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no folder of rte; it holds nothing"):
        read_split(str(tmp_path), RTE, "train")
    write_parquet(tmp_path, "cola")
    (tmp_path / "RTE").mkdir(exist_ok=True)
    (tmp_path / "RTE" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"has no train split of rte; it holds notes\.txt; found"):
        read_split(str(tmp_path), RTE, "train")
    with pytest.raises(InputError, match=r"has no folder of wnli; it holds RTE/, cola/; found"):
        read_split(str(tmp_path), TASKS["wnli"], "train")


def test_damaged_parquet_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path, "rte") / "rte" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"train\.parquet cannot be read as parquet"):
        read_split(str(tmp_path), RTE, "train")


def spoil(tmp_path: Path, change: Any) -> None:
    (tmp_path / "rte").mkdir(exist_ok=True)
    change(parquet_rows(RTE, 6)).to_parquet(str(tmp_path / "rte" / "train.parquet"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.remove_columns("sentence2"),
            r"no column 'sentence2'; found 'sentence1, ",
        ),
        (lambda rows: rows.remove_columns("label"), r"no column 'label'; found"),
        (lambda rows: rows.select([]), r"train\.parquet holds no rows"),
        (
            lambda rows: rows.cast_column("label", datasets.Value("int64")).map(
                lambda row: {"label": row["label"] + 1}
            ),
            r"train\.parquet, row 1 has a label that rte does not have; found 2; accepted: 0, 1",
        ),
        (
            lambda rows: rows.cast_column(
                "label", datasets.ClassLabel(names=["not_entailment", "entailment"])
            ),
            r"other classes than rte, or in another order; found 'not_entailment, entailment'",
        ),
    ],
    ids=["no text", "no label", "empty", "label", "order"],
)
def test_bad_tables_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    spoil(tmp_path, change)
    with pytest.raises(InputError, match=message):
        read_split(str(tmp_path), RTE, "train")


def test_parts_with_different_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rte").mkdir()
    for part, table in enumerate((parquet_rows(RTE, 3), parquet_rows(TASKS["cola"], 3))):
        table.to_parquet(str(tmp_path / "rte" / f"train-0000{part}-of-00002.parquet"))
    with pytest.raises(InputError, match="holds parts of train with different columns"):
        read_split(str(tmp_path), RTE, "train")


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00002",),
        ("train-00001-of-00001",),
        ("train", "train-00000-of-00001"),
        ("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"),
        ("train-00000-of-00001", "train-0-of-1"),
    ],
    ids=" ".join,
)
def test_parts_that_are_not_one_whole_are_refused(names: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "rte").mkdir()
    for name in names:
        parquet_rows(RTE, 3).to_parquet(str(tmp_path / "rte" / f"{name}.parquet"))
    with pytest.raises(InputError) as refused:
        read_split(str(tmp_path), RTE, "train")
    found = ", ".join(sorted(f"{name}.parquet" for name in names))
    assert str(refused.value) == (
        f"data.source: {tmp_path / 'rte'} holds too few or too many parts of train; "
        f"found '{found}'; accepted: train.parquet alone, or all parts of one set"
    )


@pytest.mark.parametrize(
    ("task", "split", "name"),
    [
        ("rte", "train", "training"),
        ("rte", "validation", "dev"),
        ("rte", "validation", "Val"),
        ("mnli", "validation_mismatched", "dev_mismatched"),
    ],
)
def test_any_word_for_a_split_unless_there_are_two(
    tmp_path: Path, task: str, split: str, name: str
) -> None:
    folder = write_parquet(tmp_path, task) / task
    expected = read_split(str(tmp_path), TASKS[task], split).texts
    (folder / f"{split}.parquet").rename(folder / f"{name}.parquet")
    assert read_split(str(tmp_path), TASKS[task], split).texts == expected
    (folder / f"{split}.parquet").write_bytes((folder / f"{name}.parquet").read_bytes())
    with pytest.raises(InputError, match=f"has several names for {split}; found '.*{name}.parq"):
        read_split(str(tmp_path), TASKS[task], split)


def test_scores_may_be_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "stsb").mkdir()
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 5]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "stsb" / "train.parquet"))
    assert read_split(str(tmp_path), TASKS["stsb"], "train").labels == [0, 5]
