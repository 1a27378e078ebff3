"""A small study as the content of a file, and records and ledgers of runs that nobody ran."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rrr_lightning.study.config import SHIPPED, merge, read_study
from rrr_lightning.study.plan import PlannedRun
from rrr_lightning.study.results import Record

HARDWARE = {"device": "cpu", "cpu": "A processor", "cores": 2, "threads": 1, "memory_bytes": 8}
CONTENT: dict[str, Any] = {
    "base": "quickstart/baseline.yaml",
    "teachers": {
        "longer": {"base": "quickstart/teacher.yaml", "steps": 60, "seeds": [901, 902]},
    },
    "arms": {
        "baseline": {},
        "distilled": {
            "overlay": {"distillation": {"teachers": "longer/901", "schedule": {"until": 0.5}}}
        },
    },
    "durations": [4, 8, 16, 32],
    "seeds": [1, 2],
    "quality": {"metric": "val/loss", "direction": "min", "target": 0.3},
    "headline": {"clock": "flops", "charge": "free"},
}


def content(**changes: Any) -> dict[str, Any]:
    """The content of a study file, with some keys replaced."""
    return merge(CONTENT, {}) | changes


def shipped_sizes() -> set[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Durations of baseline and headline arm, and the number of seeds, of every shipped study."""
    studies = (read_study(str(path)) for path in sorted(SHIPPED.glob("study/**/*.yaml")))
    return {
        (study.durations, study.durations_of(study.headline_arm), len(study.seeds))
        for study in studies
        if study.purpose != "tuning"
    }


def write(path: Path, **changes: Any) -> str:
    """Writes a study file; returns its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return str(path)


def ledger(seconds: float, flops: float = 1e9, teachers: tuple[str, ...] = ()) -> dict[str, Any]:
    phases = {name: {"seconds": 0.0, "count": 0, "flops": None} for name in ("set_up", "other")}
    phases["student_step"] = {"seconds": seconds, "count": 4, "flops": flops}
    phases["data_wait"] = {"seconds": seconds / 10, "count": 4, "flops": None}
    phases["teacher_forward"] = {"seconds": seconds / 4, "count": 2, "flops": flops / 4}
    phases["validation"] = {"seconds": 0.5, "count": 1, "flops": None}
    return {
        "version": 1,
        "steps": 4,
        "redone_steps": 0,
        "seconds": 2 * seconds,
        "phases": phases,
        "flops": {"student": flops, "teacher": flops / 4 if teachers else 0.0},
        "step_seconds": {"plain": seconds / 4, "distilled": seconds / 3 if teachers else None},
        "world_size": 1,
        "hardware": HARDWARE,
        "teachers": [{"name": name, "sha256": None, "ledger": None} for name in teachers],
    }


def record(run: PlannedRun, value: float, seconds: float | None = None, **changes: Any) -> Record:
    """The record of a run."""
    values: dict[str, Any] = {
        "run": run.name,
        "role": run.role,
        "arm": run.arm,
        "steps": run.steps,
        "seed": run.seed,
        "fingerprint": run.fingerprint,
        "config": run.settings,
        "quality": {"metric": "val/loss", "value": value, "step": run.steps},
        "curve": [{"step": run.steps, "val/loss": value}],
        "ledger": ledger(seconds or run.steps, 1e9 * run.steps, run.pool),
        "hardware": HARDWARE,
        "teachers": list(run.teachers),
        "trained_again": 0,
        "version": 1,
    }
    return Record(**{**values, **changes})  # type: ignore[typeddict-item]
