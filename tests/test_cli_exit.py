"""The end of the command line's process: no thread of a process group is left to abort it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from rrr_lightning.cli import main
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
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    return names.count("pt_gloo_runloop")


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="threads are named in /proc")


@needs_proc
def test_a_run_that_ends_well_has_ended_its_group(join: Callable[[], None]) -> None:
    started = []

    def run() -> None:
        join()
        started.append(threads_of_gloo())

    main(run)
    assert started[0] > 0
    assert threads_of_gloo() == 0
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
    assert threads_of_gloo() == 0


def test_a_run_that_breaks_does_not_wait_for_other_ranks(join: Callable[[], None]) -> None:
    def run() -> None:
        join()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        main(run)
    assert distributed.is_initialized()
