"""A distilled step of this library against that of other libraries, side by side.

    python scripts/benchmarks/peers.py --device cpu --json peers_cpu.json

Makes a virtual environment of its own from the package index with `uv`, with this checkout, the
running interpreter's versions of torch and torchvision, and the peers: timm's distillation task,
torchdistill, nvidia-modelopt, textbrewer, and Hugging Face's `Trainer` with a distillation loss on
the logits of all tokens. There, in one process, a step of ours and a step of a peer take turns: the
same networks, batches, optimizer, precision and threads as in `step_cost.py`. Our teacher runs as
one from a spec does (norms folded, `channels_last`), in the precision that the peer's runs in. A
peer that cannot be installed, or cannot do a family, is listed with why.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _peer_loops import PEERS, Loop
from _text_step import TEXT_WORKLOADS
from _timing import Comparison, StepClock, be_quiet, not_measured, parse, report
from step_cost import WARM_UP_STEPS, WORKLOADS, distill, with_lightning

from rrr_lightning.distillation.teacher import Precision, Teacher

ROOT = Path(__file__).resolve().parents[2]
MODULES = {"nvidia-modelopt": "modelopt"}  # where the module has another name
NEEDS = {"nvidia-modelopt": ["requests"]}  # imported, but not declared
GOAL = 1.0
INSIDE = "--inside"


def make_environment(folder: Path) -> Path:
    """Makes the environment, or completes it, and returns its interpreter.

    Raises:
        SystemExit: Without uv.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=Path(sys.executable).parent)
    if uv is None:
        sys.exit("peers.py needs uv (https://docs.astral.sh/uv) to make its environment")
    python = folder / "bin" / "python"
    if not python.is_file():
        subprocess.run([uv, "venv", "-q", str(folder), "--python", sys.executable], check=True)
    install = [uv, "pip", "install", "-q", "--python", str(python), "-c", "constraints.txt"]
    install += [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
    subprocess.run([*install, "accelerate", "-e", "."], check=True, cwd=ROOT)
    for peer in PEERS:
        if subprocess.run([*install, peer, *NEEDS.get(peer, [])], cwd=ROOT).returncode:
            print(f"{peer} cannot be installed")
    return python


def comparisons(device: str, only: str) -> list[Comparison | dict[str, Any]]:
    """Returns what is compared, and rows on what is not."""
    works = {"ResNet": WORKLOADS[device], "BERT": TEXT_WORKLOADS[device]}
    found: list[Comparison | dict[str, Any]] = []
    for family, work in works.items():
        for peer, loops in PEERS.items():
            name = f"{family}: distilled step / {peer}"
            if only not in name:
                continue
            loop = loops[family]
            if isinstance(loop, str):
                found.append(not_measured(name, loop))
            elif importlib.util.find_spec(MODULES.get(peer, peer)) is None:
                found.append(not_measured(name, "it could not be installed"))
            else:
                found.append(against(family, work, f"{name} {version(peer)}", loop))
    return found


def against(family: str, work: Any, name: str, loop: Loop) -> Comparison:
    """Returns the comparison with a peer."""
    network = work.build(0)
    precision: Precision = "bf16" if work.precision == "bf16-mixed" else "32"

    def ours(clock: StepClock) -> None:
        teacher = Teacher(copy.deepcopy(network), name="teacher")
        with_lightning(work, clock, [distill([teacher], precision=precision)])

    def theirs(clock: StepClock) -> None:
        teacher: Any = copy.deepcopy(network).to(work.device).eval().requires_grad_(False)
        loop(work, clock, teacher.network.network if family == "BERT" else teacher)

    return Comparison(name, ours, theirs, GOAL)


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv-peers", help="its environment")
    parser.add_argument("--only", default="", help="run the comparisons with this in their names")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    arguments = parse(parser, repeats=12, steps=20)
    if not arguments.inside:
        python = make_environment(arguments.venv)
        return subprocess.run([python, __file__, *sys.argv[1:], INSIDE]).returncode
    be_quiet()
    device = arguments.device
    size = device, arguments.repeats, WARM_UP_STEPS, arguments.steps
    rows = (
        each if isinstance(each, dict) else each.run(*size)
        for each in comparisons(device, arguments.only)
    )
    return report(rows, arguments.json, device)


if __name__ == "__main__":
    sys.exit(main())
