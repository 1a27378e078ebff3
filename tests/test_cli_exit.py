"""The end of the command line's process: no thread of a process group is left to abort it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import distributed

from rrr_lightning import cli, commands
from rrr_lightning.cli import main
from rrr_lightning.commands import REFUSED
from rrr_lightning.errors import InputError


@pytest.fixture
def join(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Makes a process group of this process alone, and has it sum something."""

    def init() -> None:
        distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1
        )
        distributed.all_reduce(torch.ones(10))

    yield init
    if distributed.is_initialized():
        distributed.destroy_process_group()


def threads_of_gloo() -> int:
    names = []
    for file in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # it may end meanwhile
            names.append(file.read_text().strip())
    return names.count("pt_gloo_runloop")


def all_threads_of_gloo_end() -> bool:
    """A thread is listed for a moment after it has been joined."""
    for _ in range(100):
        if threads_of_gloo() == 0:
            return True
        time.sleep(0.05)
    return False


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="threads are named in /proc")


@needs_proc
def test_a_run_that_ends_well_has_ended_its_group(join: Callable[[], None]) -> None:
    started = []

    def run() -> None:
        join()
        started.append(threads_of_gloo())

    main(run)
    assert started[0] > 0
    assert all_threads_of_gloo_end()
    assert not distributed.is_initialized()


@needs_proc
def test_a_run_that_is_refused_has_ended_its_group(join: Callable[[], None]) -> None:
    def run() -> None:
        join()
        assert threads_of_gloo() > 0
        raise InputError("is wrong", key="a", found=1, accepted="2")

    with pytest.raises(SystemExit) as end:
        main(run)
    assert end.value.code == 2
    assert cli._stores[-1].add(REFUSED, 0) == 1  # other ranks can still ask
    assert all_threads_of_gloo_end()


def test_a_run_that_breaks_does_not_wait_for_other_ranks(join: Callable[[], None]) -> None:
    def run() -> None:
        join()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        main(run)
    assert distributed.is_initialized()


def test_a_group_that_cannot_be_ended_changes_no_exit_code(
    join: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a peer is gone")

    with monkeypatch.context() as patch:
        patch.setattr(distributed, "destroy_process_group", broken)
        main(join)
    assert "cannot be ended: a peer is gone" in caplog.text


def test_a_rank_whose_store_is_gone_counts_as_broken_off_by_rank_0(
    join: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone:
        def add(self, key: str, amount: int) -> int:
            raise distributed.DistStoreError("Connection reset by peer")

    join()
    assert not commands.is_refused_elsewhere()
    monkeypatch.setattr(commands, "_store", Gone)
    assert commands.is_refused_elsewhere()
