"""`rrr` as studies call it, without training: leaves what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from rrr_lightning.study import worker
from tests.study.studies import ledger


class Pretend:
    """In place of `forked`.

    Attributes:
        calls: Command and run folder's name of every call.
        codes: Exit codes by run folder's name, used once.
        told_steps: Steps that the ledger tells of, by run folder's name, used once.
        unvalidated: Names of runs that are killed between last checkpoint and last validation.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.codes: dict[str, int] = {}
        self.told_steps: dict[str, int] = {}
        self.unvalidated: set[str] = set()

    def __call__(self, *arguments: str) -> int:
        command, config = arguments[0], yaml.safe_load(Path(arguments[2]).read_text())
        folder = Path(config["trainer"]["default_root_dir"])
        self.calls.append((command, folder.name))
        if folder.name in self.codes:
            return self.codes.pop(folder.name)
        getattr(self, command)(folder, config)
        return 0

    def fit(self, folder: Path, config: dict[str, Any]) -> None:
        steps, seed = config["trainer"]["max_steps"], config["seed_everything"]
        teachers = config.get("distillation", {}).get("teachers") or []
        for teacher in teachers:
            assert Path(teacher).exists(), teacher
        better = 1.5 if teachers else 1.0
        loss = (better * steps) ** -0.5 * (1 + 0.01 * (-1) ** seed)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoints" / "last.ckpt").write_text(str(loss))
        ending = "" if folder.name in self.unvalidated else str(loss)
        rows = f"step,train/loss,val/loss\n0,1.0,\n{steps - 1},0.5,{ending}\n"
        (folder / "metrics.csv").write_text(rows)
        told = ledger(float(steps), 1e9 * steps, tuple(map(str, teachers)))
        if "pilot" not in folder.parts:
            told["steps"] = self.told_steps.pop(folder.name, steps)
        (folder / "ledger.json").write_text(json.dumps(told))
        validated = {"metrics": {"train/loss": 0.5, "val/loss": loss}, "batches": 4, "used": 2}
        accumulation = 2 if teachers else 1
        (folder / "validated.json").write_text(
            json.dumps({**validated, "accumulation": accumulation})
        )

    def validate(self, folder: Path, config: dict[str, Any]) -> None:
        loss = float((folder / "checkpoints" / "last.ckpt").read_text())
        (folder / "validated.json").write_text(json.dumps({"metrics": {"val/loss": loss}}))


def in_this_process(jobs: Any, folder: Any, places: Any = None, stream: Any = None) -> Any:
    """In place of `run_jobs`: one job after the other, without processes."""
    from rrr_lightning.jobs import Outcome

    outcome = Outcome()
    left = list(jobs)
    while left:
        ready = [job for job in left if not {each.name for each in left} & set(job.needs)]
        for job in ready:
            left.remove(job)
            assert job.command[1:3] == ("-m", "rrr_lightning.study.worker")
            assert worker.main(job.command[3:]) == 0
            outcome.ran += 1
    if stream is not None:
        stream.write(f"{outcome.ran} jobs run\n")
    return outcome
