from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from rrr_lightning.callbacks.profiler import (
    EnergyMeter,
    describe_git,
    describe_hardware,
    describe_versions,
    peak_memory,
)

CPU = torch.device("cpu")


def test_a_cpu_is_described() -> None:
    found = describe_hardware(CPU)
    assert found["device"] == found["cpu"] != ""
    assert found["cores"] >= found["threads"] >= 1
    assert found["memory_bytes"] > peak_memory(CPU) > 10 * 2**20


def test_versions_are_those_in_use() -> None:
    found = describe_versions()
    assert torch.__version__.startswith(str(found["torch"]))
    assert {"python", "rrr-lightning", "lightning", "transformers", "cuda"} <= found.keys()


def git(*arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def test_a_commit_and_what_differs_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_git() is None
    git("init")
    Path("a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    found = describe_git()
    assert found is not None
    assert (len(found["commit"]), found["dirty"]) == (40, False)
    Path("b").write_text("not tracked")
    assert describe_git() == found
    Path("a").write_text("2")
    assert describe_git() == {**found, "dirty": True}


def test_without_git_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert describe_git() is None


class Nvml(ModuleType):
    """The functions of `pynvml` that are used, for one device of a known name."""

    class NVMLError(Exception):
        pass

    def __init__(self, fails: bool = False) -> None:
        super().__init__("pynvml")
        self.fails = fails
        self.millijoules = 5000

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-abc":
            raise self.NVMLError
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.fails:
            raise self.NVMLError
        return self.millijoules


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    made = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", made)
    properties = SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return made


def test_energy_is_what_the_driver_has_counted_since(nvml: Nvml) -> None:
    meter = EnergyMeter(torch.device("cuda"))
    nvml.millijoules += 2500
    assert meter.joules() == 2.5


@pytest.mark.parametrize("trouble", ["not supported", "another device", "not installed"])
def test_energy_that_is_not_reported_is_none(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    nvml.fails = trouble == "not supported"
    if trouble == "another device":
        properties = SimpleNamespace(uuid="other")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    if trouble == "not installed":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    assert EnergyMeter(torch.device("cuda")).joules() is None
    assert EnergyMeter(CPU).joules() is None
