"""Shared by all tests: no network, one thread, and the folder of real test data."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

from tests.cli_runs import refused as refused
from tests.cli_runs import rrr as rrr

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def rrr_data() -> Path:
    """The folder of real test data: `RRR_DATA`, or `../shared/data` beside the checkout."""
    fallback = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RRR_DATA", fallback))
    if not folder.is_dir():
        pytest.skip(f"no test data: RRR_DATA is not set and {fallback} is not a folder")
    return folder
