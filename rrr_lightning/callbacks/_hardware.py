"""What a run ran on, and what the device says of itself: memory, energy, names, versions."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_PACKAGES = ("torch", "lightning", "torchvision", "transformers", "numpy")
_GIT_SECONDS = 5.0


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Returns the names of device and processor, cores, threads, and the device's memory."""
    cuda = device.type == "cuda"
    processor = _processor()
    return {
        "device": torch.cuda.get_device_name(device) if cuda else processor,
        "cpu": processor,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_bytes": torch.cuda.get_device_properties(device).total_memory
        if cuda
        else _memory(),
    }


def _memory() -> int | None:
    """The bytes of the machine's memory; None where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe_versions() -> dict[str, str | None]:
    """Returns the versions of what the numbers and the speed of a run depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("rrr-lightning", *_PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return {**found, "cuda": torch.version.cuda}


def describe_git() -> dict[str, Any] | None:
    """Returns the commit of the working folder and whether tracked files differ from it."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "-uno")
    return None if not commit or changes is None else {"commit": commit, "dirty": bool(changes)}


def peak_memory(device: torch.device) -> int:
    """Returns the most bytes that tensors on a CUDA device, or else this process, ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held if sys.platform == "darwin" else held * 1024


class EnergyMeter:
    """Reads the energy that a CUDA device has used, in joules, through `nvidia-ml-py` if installed.

    Args:
        device: The device; others than CUDA devices report nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = None
        if device.type != "cuda":
            return
        with suppress(ImportError):  # the extra `energy`
            self._nvml = importlib.import_module("pynvml")
            self._uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            self._first = self._read()

    def joules(self) -> float | None:
        """Returns the energy since the meter was made, None where the device does not report it."""
        now = self._read()
        return None if now is None or self._first is None else now - self._first

    def _read(self) -> float | None:
        if self._nvml is None:
            return None
        try:
            self._nvml.nvmlInit()
            handle = self._nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except self._nvml.NVMLError:
            return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=_GIT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None
