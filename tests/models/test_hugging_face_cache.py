"""Networks by their ids on the hub, from what a download leaves in the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.glue.tiny import write_body

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAME = """
import sys
import torch
from rrr_lightning.tokens import load_fast_tokenizer
from rrr_lightning.models.masked_lm import MaskedLanguageModel
from rrr_lightning.models.text_classifier import TextClassifier
from rrr_lightning.teachers import load_teacher

folder, name = sys.argv[1], "owner/bert"

def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)

there, here = (TextClassifier(body, 2, seed=0) for body in (name, folder))
same(there, here)
assert there.vocabulary == here.vocabulary is not None
same(*(MaskedLanguageModel(body, pretrained=True, seed=0) for body in (name, folder)))
there, here = (load_teacher(f"hf:{body}", key="teacher") for body in (name, folder))
same(there.network, here.network)
assert there.fingerprint() == here.fingerprint()
assert load_fast_tokenizer(name)("a cat", "a dog") == load_fast_tokenizer(folder)("a cat", "a dog")
"""


@pytest.mark.slow
def test_a_cached_id_is_the_same_as_its_folder(tmp_path: Path) -> None:
    body = write_body(tmp_path / "body")
    cache = tmp_path / "hub"
    snapshot = cache / "models--owner--bert" / "snapshots" / COMMIT
    shutil.copytree(body, snapshot)
    refs = cache / "models--owner--bert" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    found = subprocess.run(
        [sys.executable, "-c", SAME, str(body)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
    )
    assert found.returncode == 0, found.stderr[-2000:]
