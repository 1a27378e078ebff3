"""Two fine-tuning jobs at once on the cores of this machine against one after the other.

    python scripts/benchmarks/parallel_jobs.py --checkpoint last.ckpt --repeats 5 --json rows.json

The jobs are those of `rrr glue`: processes that load, train and judge. At once they run as with
`--devices cpu:2`, with half of the cores each; one after the other with all of them, as with
`--devices cpu:1`, or with as many threads as `--threads` says: small networks can be faster with
one. The two ways alternate. Needs the folder of real test data: `RRR_DATA`, or
`../shared/data` beside the checkout.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _timing import Median, report

from rrr_lightning.glue.plan import SETTINGS, make_plan
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.jobs import Places, find_places, run_jobs
from rrr_lightning.jobs.process import write_json

GOAL = 1 / 1.3
TASK, SEEDS = "mrpc", (1, 2)


def seconds(checkpoint: Path, data: Path, places: Places, cells: dict[str, Any]) -> float:
    """Returns the seconds of two new jobs."""
    protocol = find_protocol("quick", {TASK: cells}, SEEDS)
    with tempfile.TemporaryDirectory() as home:
        plan = make_plan((TASK,), protocol, str(checkpoint.resolve()), str(data.resolve()), home)
        for run in plan.runs:
            run.folder.mkdir(parents=True)
            write_json(run.folder / SETTINGS, dict(run.settings))
        start = time.perf_counter()
        outcome = run_jobs(plan.jobs, home, places, io.StringIO())
        took = time.perf_counter() - start
    if not outcome.complete:
        raise RuntimeError(f"a job has failed: {outcome.failed}")
    return took


def in_turn(threads: int | None) -> Places:
    """Returns one place, with so many threads or all."""
    (environment,) = find_places("cpu:1").environments
    given = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return Places(({**environment, **given},))


def main() -> int:
    """Runs the benchmark; the exit status is 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="a text student, also as a Hugging Face folder",
    )
    parser.add_argument("--device", choices=["cpu"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of ways")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a job")
    parser.add_argument("--length", type=int, default=32, help="tokens of a text")
    parser.add_argument("--threads", type=int, help="of a job when they run one after the other")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    fallback = Path(__file__).resolve().parents[3] / "shared" / "data"
    data = Path(os.environ.get("RRR_DATA", fallback)) / "glue"
    cells = {"max_steps": arguments.steps, "max_length": arguments.length}
    ways, pairs = (find_places("cpu:2"), in_turn(arguments.threads)), []
    for repeat in range(arguments.repeats):
        took = [0.0, 0.0]
        for way in (0, 1) if repeat % 2 else (1, 0):
            took[way] = seconds(arguments.checkpoint, data, ways[way], cells)
        pairs.append(took)
        load = os.getloadavg()[0]
        print(f"at once {took[0]:.1f} s, in turn {took[1]:.1f} s; load {load:.1f}", flush=True)
    ratios = [mine / other for mine, other in pairs]
    middle = Median.of(ratios)
    row = {
        **{"name": "two jobs at once / one after the other", "ratio": middle.value},
        **{"low": middle.low, "high": middle.high, "coverage": middle.coverage},
        **{"goal": GOAL, "rule": "at most", "met": middle.value <= GOAL, "n": len(pairs)},
        **{
            "steps": arguments.steps,
            "threads_in_turn": arguments.threads,
            "pairs": pairs,
            "ratios": ratios,
        },
    }
    return report([row], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
