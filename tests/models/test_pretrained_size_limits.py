"""The limits on what a file may describe refuse no network whose weights are in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import transformers

from rrr_lightning.models.hugging_face import load_hugging_face
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.loading import load_checkpoint
from rrr_lightning.models.pretrained import size_limit

KEY = "distillation.teachers[0]"
LARGEST = 8_000_000  # numbers of a network that is written and loaded whole


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:.*default weight initialization:FutureWarning")
def test_every_classifier_of_torchvision_is_built_within_them(tmp_path: Path) -> None:
    loaded = 0
    for name in torchvision.models.list_models(module=torchvision.models):
        with size_limit(2**32, 2**16, name, with_values=True):
            state = ImageClassifier(name, 10).state_dict()
        numbers = sum(each.numel() for each in state.values())
        with size_limit(numbers, len(state), name, with_values=True):
            ImageClassifier(name, 10)
        if numbers > LARGEST:
            continue
        module = ImageClassifier(name, 10, seed=0)
        path = tmp_path / f"{name}.ckpt"
        content = {"state_dict": module.state_dict(), "rrr_lightning": module.describe()}
        torch.save(content, path)
        found = load_checkpoint(path, KEY).network.state_dict()
        assert all(torch.equal(found[key], value) for key, value in module.state_dict().items())
        path.unlink()
        loaded += 1
    assert loaded > 10


SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}
KINDS: dict[str, dict[str, Any]] = {
    "Albert": {"embedding_size": 8},
    "Bert": {},
    "Camembert": {},
    "ConvBert": {"embedding_size": 16},
    "DebertaV2": {"position_buckets": 8, "relative_attention": True, "pos_att_type": ["p2c"]},
    "DistilBert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "Electra": {"embedding_size": 8},
    "Ernie": {},
    "MPNet": {},
    "ModernBert": {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
    "Roberta": {},
    "RoFormer": {"embedding_size": 16},
    "SqueezeBert": {"embedding_size": 16, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "XLMRoberta": {},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_masked_language_models_of_transformers_load_within_them(tmp_path: Path, kind: str) -> None:
    config = getattr(transformers, f"{kind}Config")(**SMALL, **KINDS[kind])
    network = getattr(transformers, f"{kind}ForMaskedLM")(config).eval()
    network.save_pretrained(tmp_path)
    loaded = load_hugging_face(str(tmp_path), KEY).network.eval()
    ids = torch.randint(5, 40, (2, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, 2:5] = ids[:, 2:5]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with torch.no_grad():
        expected = network(input_ids=ids, attention_mask=batch["attention_mask"]).logits
        torch.testing.assert_close(loaded.logits(batch), expected[:, 2:5].flatten(0, 1))
