from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rrr_lightning.callbacks._hardware import (
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


class Driver:
    """The functions of the driver's library that are used, for one device of a known name."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.millijoules = 5000

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:
        return 0 if uuid.value == b"GPU-abc" else 2

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, energy: Any) -> int:
        energy._obj.value = self.millijoules
        return 3 if self.fails else 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
    properties = SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return made


def test_energy_is_what_the_driver_has_counted_since(driver: Driver) -> None:
    meter = EnergyMeter(torch.device("cuda"))
    driver.millijoules += 2500
    assert meter.joules() == 2.5


@pytest.mark.parametrize("trouble", ["not supported", "another device", "no library"])
def test_energy_that_is_not_reported_is_none(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    driver.fails = trouble == "not supported"
    if trouble == "another device":
        properties = SimpleNamespace(uuid="other")
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    if trouble == "no library":
        monkeypatch.setattr(ctypes, "CDLL", missing)
    assert EnergyMeter(torch.device("cuda")).joules() is None
    assert EnergyMeter(CPU).joules() is None
