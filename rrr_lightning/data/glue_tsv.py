"""The official TSV files of GLUE, with their quirks.

- A quotation mark is a character like any other, also where it is never closed.
- CoLA's training and validation files have no header; its test file has one.
- MRPC comes as `train.tsv` and `dev.tsv`, or as `msr_paraphrase_train.txt`, of which `dev_ids.tsv`
  names the validation rows; some of its files start with a byte order mark.
- In QQP, questions that hold a line break cut their rows in two. These are left out. In any other
  file a row with another number of fields than the header is an error.
- Lines end at a line feed, with or without a carriage return; the characters that Unicode takes for
  line ends do not end a line.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rrr_lightning.data.glue_rows import GlueRows, check_rows, refused_label
from rrr_lightning.data.glue_tasks import DIAGNOSTIC, DIAGNOSTIC_SPLIT, GlueTask
from rrr_lightning.errors import InputError

logger = logging.getLogger(__name__)

Line = tuple[int, list[str]]
COLA_FIELDS = ("source", "label", "mark", "sentence")
MRPC_IDS = ("#1 ID", "#2 ID")
MOST_BROKEN_LINES = 100


def tsv_files(folder: Path, task: GlueTask, split: str) -> list[Path] | None:
    """Returns the files that hold a split; None where there are none."""
    usual = folder / f"{split.replace('validation', 'dev')}.tsv"
    if usual.is_file():
        return [usual]
    if task is DIAGNOSTIC and (folder / f"{DIAGNOSTIC_SPLIT}.tsv").is_file():
        return [folder / f"{DIAGNOSTIC_SPLIT}.tsv"]
    if task.name == "mrpc":
        part = "test" if split == "test" else "train"
        needed = [folder / f"msr_paraphrase_{part}.txt"]
        if split != "test":
            needed.append(folder / "dev_ids.tsv")
        if all(path.is_file() for path in needed):
            return needed
    return None


def read_tsv(files: Sequence[Path], task: GlueTask, split: str) -> GlueRows:
    """Returns the rows of a split from the files that `tsv_files` found.

    Raises:
        InputError: A file cannot be read, lacks a field, or has a bad row; the line is named.
    """
    path, *ids = files
    header, lines = _open(path, task, split)
    if ids:
        held_out = {tuple(fields[:2]) for _, fields in _lines(ids[0])}
        places = [_place(header, name, path) for name in MRPC_IDS]
        wanted = split == "validation"
        lines = [
            line
            for line in lines
            if (tuple(line[1][place] for place in places) in held_out) == wanted
        ]
    columns = [_place(header, name, path) for name in task.tsv_fields]
    texts = tuple([fields[column] for _, fields in lines] for column in columns)
    labels: list[int] | list[float] | None = None
    if not split.startswith("test"):
        column = _place(header, task.label_field, path)
        labels = [
            _label(fields[column], task, f"{path}, line {number}") for number, fields in lines
        ]
    numbers = [number for number, _ in lines]
    rows = GlueRows(texts, labels, str(path))
    return check_rows(rows, task, lambda row: f"{path}, line {numbers[row]}")


def _open(path: Path, task: GlueTask, split: str) -> tuple[Sequence[str], list[Line]]:
    """The header, and the lines that have as many fields."""
    lines = _lines(path)
    if task.name == "cola" and not split.startswith("test"):
        header: Sequence[str] = COLA_FIELDS
    else:
        _, header = next(lines, (1, []))
    if task.name == "qqp" and not split.startswith("test"):
        return header, _without_broken(lines, len(header), path)
    return header, [_whole(line, len(header), path) for line in lines]


def _lines(path: Path) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.rstrip(b"\r\n")
            if not content:
                continue
            try:
                text = content.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number} is not UTF-8", key="data.source"
                ) from error
            yield number, text.split("\t")


def _whole(line: Line, fields: int, path: Path) -> Line:
    number, found = line
    if len(found) != fields:
        raise InputError(
            f"{path}, line {number} has {'missing' if len(found) < fields else 'too many'} fields",
            key="data.source",
            found=len(found),
            accepted=str(fields),
        )
    return line


def _without_broken(lines: Iterable[Line], fields: int, path: Path) -> list[Line]:
    whole, broken = [], []
    for line in lines:
        if len(line[1]) == fields:
            whole.append(line)
        else:
            broken.append(line)
    if len(broken) > MOST_BROKEN_LINES:
        _whole(broken[MOST_BROKEN_LINES], fields, path)
    if broken:
        logger.warning(
            "%s: %d lines that do not hold a whole row are left out, as in the official counts; "
            "the first is line %d",
            path,
            len(broken),
            broken[0][0],
        )
    return whole


def _place(header: Sequence[str], name: str, path: Path) -> int:
    if name not in header:
        raise InputError(
            f"{path}, line 1 has no field {name!r}",
            key="data.source",
            found=", ".join(header) or "an empty file",
        )
    return header.index(name)


def _label(text: str, task: GlueTask, place: str) -> int | float:
    text = text.strip()
    if task.is_regression:
        try:
            return float(text)
        except ValueError:
            raise refused_label(place, text, task, ()) from None
    if text not in task.words:
        raise refused_label(place, text, task, task.words)
    return task.words.index(text)
