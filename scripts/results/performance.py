"""Writes the tables of docs/performance.md from the measurements under docs/results/benchmarks.

    python scripts/results/performance.py

Each JSON file there is a list of rows, as the scripts under scripts/benchmarks write them.
Rows with a goal make the first table, rows without one the second. Benchmarks that have not run on
a device are listed with their commands.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
MEASURED = ROOT / "docs" / "results" / "benchmarks"
BEGIN, END = "<!-- {} -->", "<!-- end of {} -->"
AIMS = {"at most": "≤", "at least": "≥", "contains": "interval contains"}
# The benchmarks that have to run on each device.
TO_RUN = ("step_cost", "mlm_step", "peers", "scaling", "throughput", "stored_targets")


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns all rows, with the name of the file that each is from."""
    return [
        row | {"file": file.name}
        for file in sorted(folder.glob("*.json"))
        for row in json.loads(file.read_text())
    ]


def goals(rows: list[dict[str, Any]]) -> str:
    """Returns the table of rows with a goal, of rows that were not measured, and of a GPU's."""
    lines = [
        "| what | ratio | interval | goal | | n | device | file |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        where = f"{row['device']} | [{row['file']}](results/benchmarks/{row['file']}) |"
        if row["ratio"] is None:
            lines.append(f"| {row['name']} | – | – | – | not measured: {row['note']} | – | {where}")
        elif row["goal"] is not None:
            goal = f"{AIMS[row.get('rule', 'at most')]} {row['goal']:.4g}"
            verdict = "met" if row["met"] else "**missed**"
            cells = [row["name"], numbers(row), goal, verdict, str(row["n"]), where]
            lines.append("| " + " | ".join(cells))
    have = {row["file"] for row in rows}
    for device in ("cpu", "cuda"):
        for name in TO_RUN:
            file = f"{name}_{device}.json"
            if file not in have:
                options = f"--device {device} --json {MEASURED.relative_to(ROOT) / file}"
                lines.append(
                    f"| `python scripts/benchmarks/{name}.py {options}` "
                    f"| – | – | – | not measured | – | {device} | – |"
                )
    judged = [row for row in rows if row["goal"] is not None]
    met = sum(bool(row["met"]) for row in judged)
    return "\n".join([*lines, "", f"{met} of {len(judged)} goals met."])


def contrasts(rows: list[dict[str, Any]]) -> str:
    """Returns the table of rows without a goal."""
    lines = ["| what | ratio | interval | n | device |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['name']} | {numbers(row)} | {row['n']} | {row['device']} |"
        for row in rows
        if row["goal"] is None and row["ratio"] is not None
    ]
    return "\n".join(lines)


def numbers(row: dict[str, Any]) -> str:
    """Returns ratio and interval, as two cells."""
    digits = 4 if row.get("rule") == "at least" and row["ratio"] < 1 else 3
    return f"{row['ratio']:.{digits}f} | {row['low']:.{digits}f} – {row['high']:.{digits}f}"


def renew(page: str, rows: list[dict[str, Any]]) -> str:
    """Returns a page with its tables made anew.

    Raises:
        ValueError: The page lacks the marks of a table.
    """
    for name, table in (("goals", goals(rows)), ("contrasts", contrasts(rows))):
        begin, end = BEGIN.format(name), END.format(name)
        before, found, rest = page.partition(begin)
        _, also_found, after = rest.partition(end)
        if not (found and also_found):
            raise ValueError(f"{begin} … {end} is missing")
        page = f"{before}{begin}\n{table}\n{end}{after}"
    return page


def main() -> int:
    """Writes the page."""
    PAGE.write_text(renew(PAGE.read_text(), read(MEASURED)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
