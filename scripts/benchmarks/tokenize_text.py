"""Documents per second of preparing text, against `datasets.map` with the same tokenizer.

    python scripts/benchmarks/tokenize_text.py --device cpu --repeats 10 --json tokenize_text.json

Both read the documents of one parquet file from its mapped or cached form, cut them to 128 tokens
and write the ids to the disk, on all cores. `datasets.map` runs once with a process per core and
once with the tokenizer library's own threads. The way in question and its reference alternate; the
ratio is that of their seconds. Needs the folder of real test data: `RRR_DATA`, or
`../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
from _timing import Median, report

from rrr_lightning.data.documents import FileDocuments, FirstDocuments
from rrr_lightning.data.encoding import Encoder
from rrr_lightning.data.mapped import MappedSamples
from rrr_lightning.data.preparation import available_cores, prepare
from rrr_lightning.data.tokenizer import load_tokenizer

Count = Callable[[], int]  # of the tokens that a way wrote; not timed
Way = Callable[[Path], Count]
LENGTH = 128
GOAL = 1.0


@dataclass(frozen=True)
class Work:
    """The documents and the tokenizer; every way writes into a new folder."""

    file: Path
    documents: int
    tokenizer: Any

    def ours(self, folder: Path) -> Count:
        """Prepares the documents as `TextDataModule` does."""
        documents = FirstDocuments(FileDocuments([str(self.file)], "text"), self.documents)
        encoder = Encoder(self.tokenizer, "truncate", LENGTH)
        tokenizer_json = self.tokenizer.backend_tokenizer.to_str()
        samples = MappedSamples(prepare(documents, encoder, tokenizer_json, folder))
        return lambda: sum(len(ids) for ids, _ in samples._parts)

    def mapped(self, folder: Path, table: datasets.Dataset, processes: int | None) -> Count:
        """Tokenizes a table of the same documents with `datasets.map`."""
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if processes is None else "false"
        done = table.map(
            self._encode,
            batched=True,
            num_proc=processes,
            remove_columns=["text"],
            cache_file_name=str(folder / "mapped.arrow"),
            new_fingerprint=uuid.uuid4().hex,
        )
        return lambda: sum(map(len, done["input_ids"]))

    def _encode(self, batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = self.tokenizer(
            batch["text"],
            truncation=True,
            max_length=LENGTH,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return {"input_ids": encoded["input_ids"]}


def timed(way: Way) -> tuple[float, float, int]:
    """Returns the seconds, the cores that were busy on average, and the number of tokens."""
    with tempfile.TemporaryDirectory() as folder:
        busy, start = _cpu_seconds(), time.perf_counter()
        count = way(Path(folder))
        seconds = time.perf_counter() - start
        return seconds, (_cpu_seconds() - busy) / seconds, count()


def _cpu_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def compare(
    name: str,
    way: Way,
    reference: Way,
    repeats: int,
    work: Work,
) -> dict[str, Any]:
    """Returns the row of one comparison, after one run of each that does not count."""
    if timed(way)[2] != timed(reference)[2]:
        raise RuntimeError(f"{name}: the two ways give different tokens")
    pairs = []
    for repeat in range(repeats):
        if repeat % 2:
            other, mine = timed(reference), timed(way)
        else:
            mine, other = timed(way), timed(reference)
        pairs.append((mine, other))
    ratios = [mine[0] / other[0] for mine, other in pairs]
    middle = Median.of(ratios)
    row = {
        "name": name,
        "ratio": middle.value,
        "low": middle.low,
        "high": middle.high,
        "goal": GOAL,
        "rule": "at most",
        "met": middle.value <= GOAL,
        "n": repeats,
        "coverage": middle.coverage,
        "documents": work.documents,
        "ratios": ratios,
    }
    for label, runs in zip(("", "reference_"), zip(*pairs, strict=True), strict=True):
        seconds = statistics.median(run[0] for run in runs)
        row[f"{label}seconds"] = seconds
        row[f"{label}documents_per_second"] = work.documents / seconds
        row[f"{label}cores_used"] = statistics.median(run[1] for run in runs)
    return row


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--repeats", type=int, default=10, help="pairs of runs per ratio")
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    fallback = Path(__file__).resolve().parents[3] / "shared" / "data"
    root = Path(os.environ.get("RRR_DATA", fallback))
    if not root.is_dir():
        parser.error(f"no test data: RRR_DATA is not set and {fallback} is not a folder")
    logging.getLogger("rrr_lightning").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    work = Work(
        root / "text" / "train.parquet",
        arguments.documents,
        load_tokenizer(str(root / "bert-base-uncased")),
    )
    with tempfile.TemporaryDirectory() as cache:
        whole = datasets.Dataset.from_parquet(str(work.file), cache_dir=cache, columns=["text"])
        table = whole.select(range(work.documents))
        cores = available_cores()
        ways = {
            f"preparation / datasets.map with {cores} processes": cores,
            "preparation / datasets.map with the tokenizer's threads": None,
        }
        rows = [
            compare(
                name,
                work.ours,
                lambda folder, processes=processes: work.mapped(folder, table, processes),  # type: ignore[misc]
                arguments.repeats,
                work,
            )
            for name, processes in ways.items()
        ]
    for row in rows:
        print(
            f"{row['documents_per_second']:.0f} documents/s on {row['cores_used']:.2f} cores, not "
            f"{row['reference_documents_per_second']:.0f} on {row['reference_cores_used']:.2f}"
        )
    return report(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
