"""Where jobs run: processes on the CPU that share its cores, one GPU each, or a SLURM cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit

from rrr_lightning.errors import InputError

# More fine-tuning processes than this on one machine's CPU run out of memory before they run out
# of cores: BERT-base takes 2 GB each.
MOST_CPU_PROCESSES = 4
ACCEPTED = "auto, cpu, cpu:4, gpu, gpu:0,2, slurm or slurm:16"


@dataclass(frozen=True)
class Places:
    """Places for one job each.

    Attributes:
        environments: For every place, the variables that its commands get.
        cluster: Executor of `submitit`: `local` or `slurm`.
        parameters: Its parameters, for example `timeout_min` or `slurm_partition`.
    """

    environments: tuple[Mapping[str, str], ...]
    cluster: str = "local"
    parameters: Mapping[str, Any] = field(default_factory=dict)


def find_places(devices: str = "auto", slurm: Mapping[str, Any] | None = None) -> Places:
    """Returns the places that `--devices` names."""
    kind, _, rest = devices.partition(":")
    if kind == "slurm":
        return _slurm(devices, rest, slurm or {})
    if slurm:
        raise InputError("only for --devices slurm", key="--slurm", found=dict(slurm))
    if kind == "auto" and not rest:
        gpus = _visible_gpus()
        return _gpu_places(gpus) if gpus else _cpu_places(min(cores(), MOST_CPU_PROCESSES))
    if kind == "cpu":
        return _cpu_places(_count(devices, rest, min(cores(), MOST_CPU_PROCESSES)))
    if kind == "gpu":
        return _gpu_places(_chosen_gpus(devices, rest))
    raise InputError("no such device", key="--devices", found=devices, accepted=ACCEPTED)


def slurm_parameters(text: str | None) -> dict[str, Any] | None:
    """Returns `a=1,b=long` of `--slurm` as a mapping; numbers become numbers."""
    if text is None:
        return None
    pairs = [each.partition("=") for each in text.split(",")]
    if not all(name and value for name, _, value in pairs):
        raise InputError("not name=value pairs", key="--slurm", found=text)
    return {name: int(value) if value.isdecimal() else value for name, _, value in pairs}


def executor_of(places: Places, folder: Path) -> submitit.AutoExecutor:
    """Returns what starts jobs in places, and keeps its own files in a folder."""
    executor = submitit.AutoExecutor(folder, cluster=places.cluster)
    try:
        executor.update_parameters(**places.parameters)
    except (AssertionError, NameError, ValueError) as error:
        raise InputError(str(error).partition("\n")[0], key="--slurm") from error
    return executor


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads(processes: int) -> dict[str, str]:
    each = str(max(1, cores() // processes))
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), each)


def _cpu_places(processes: int) -> Places:
    return Places(({**_threads(processes), "CUDA_VISIBLE_DEVICES": ""},) * processes)


def _gpu_places(gpus: list[str]) -> Places:
    threads = _threads(len(gpus))
    return Places(tuple({**threads, "CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus))


def _slurm(devices: str, rest: str, parameters: Mapping[str, Any]) -> Places:
    if shutil.which("srun") is None:
        raise InputError("no SLURM cluster: srun is not installed", key="--devices", found=devices)
    places = Places(({},) * _count(devices, rest, 64), "slurm", {"timeout_min": 1440, **parameters})
    executor_of(places, Path())  # refuses wrong parameters before anything is made on disk
    return places


def _count(devices: str, text: str, default: int) -> int:
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise InputError("not a number", key="--devices", found=devices, accepted=ACCEPTED)
    return int(text)


def _visible_gpus() -> list[str]:
    """The GPUs that this process may use, under the names that its children must use."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(number) for number in range(1024)]
    return names[: torch.cuda.device_count()]


def _chosen_gpus(devices: str, rest: str) -> list[str]:
    visible = _visible_gpus()
    chosen = rest.split(",") if rest else [str(number) for number in range(len(visible))]
    if not chosen or any(not each.isdecimal() or int(each) >= len(visible) for each in chosen):
        there = ", ".join(f"gpu:{number}" for number in range(len(visible))) or "no GPU here"
        raise InputError("no such device", key="--devices", found=devices, accepted=there)
    return [visible[int(each)] for each in chosen]
