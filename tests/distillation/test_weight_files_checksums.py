"""A safetensors file with a checksum is the one that was written, or it is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rrr_lightning.distillation.weight_files import Damaged, add_checksum, check_checksum


def test_every_flipped_bit_is_noticed_and_other_readers_see_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.arange(4.0)}, path, {"format": "pt"})
    check_checksum(path)  # a file without one is taken
    add_checksum(path)
    check_checksum(path)
    assert torch.equal(load_file(path)["a"], torch.arange(4.0))
    whole = path.read_bytes()
    last = len(whole) - 4 * 4
    for at in (*range(8), *range(last, len(whole))):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(Damaged):
            check_checksum(path)
    for end in (0, 7, 20, last, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(Damaged):
            check_checksum(path)
