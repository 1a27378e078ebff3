"""Weight files that people have had: what is in them, and what becomes of it here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torchvision import models

from rrr_lightning.distillation.state_dicts import load_weights
from rrr_lightning.distillation.weight_files import read_checkpoint
from rrr_lightning.errors import InputError
from rrr_lightning.models.hugging_face import load_hugging_face, vocabulary_of
from rrr_lightning.tokens import load_tokenizer
from tests.models.texts import SMALL


def filled(value: float) -> dict[str, torch.Tensor]:
    state = nn.Linear(3, 2).state_dict()
    return {name: torch.full_like(tensor, value) for name, tensor in state.items()}


def test_a_pretraining_checkpoint_with_student_and_teacher(tmp_path: Path) -> None:
    """lightly-train#434: both networks of a self-distillation lie under one state dict."""
    state = {f"student.{name}": tensor for name, tensor in filled(1).items()}
    state |= {f"teacher.{name}": tensor for name, tensor in filled(2).items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    network, content = nn.Linear(3, 2), read_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="several copies"):
        load_weights(network, content, "teacher")
    load_weights(network, content, "teacher", prefix="teacher")
    assert network.weight[0, 0].item() == 2


def test_a_checkpoint_with_a_copy_by_an_ema_callback(tmp_path: Path) -> None:
    """pytorch-lightning#10914: the module keeps a copy of its network, which is saved with it."""
    state = {f"model.{name}": tensor for name, tensor in filled(1).items()}
    state |= {f"ema_model.{name}": tensor for name, tensor in filled(2).items()}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match=r"prefix=model or .*prefix=ema_model"):
        load_weights(nn.Linear(3, 2), read_checkpoint(tmp_path / "last.ckpt"), "teacher")


def test_a_published_vision_transformer(tmp_path: Path) -> None:
    """pytorch/vision#6053: the published names are `mlp.linear_1`, which a hook translates."""
    network, source = (models.VisionTransformer(32, 16, 1, 2, 8, 16) for _ in range(2))
    state = source.state_dict()
    for name in [name for name in state if ".mlp." in name]:
        old = name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2")
        state[old] = state.pop(name)
    for name, version in state._metadata.items():  # type: ignore[attr-defined]
        version.update({"version": 1} if name.endswith("mlp") else {})
    torch.save({"model": state}, tmp_path / "vit.pth")
    load_weights(network, read_checkpoint(tmp_path / "vit.pth"), "teacher")
    for name, tensor in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_a_fine_tuned_googlenet_with_auxiliary_heads(tmp_path: Path) -> None:
    """pytorch/vision#3648: heads that only training uses are in the file."""
    from rrr_lightning.models.pretrained import load_torchvision

    network = models.googlenet(num_classes=5, aux_logits=True, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    query = {"checkpoint": str(tmp_path / "net.pth"), "num_classes": "5"}
    loaded: Any = load_torchvision("googlenet", query, "teacher").network
    assert torch.equal(loaded.fc.weight, network.fc.weight)


def test_hyper_parameters_of_foreign_classes(tmp_path: Path) -> None:
    """pytorch-lightning#21757: a path in the hyper-parameters keeps the file from being read."""
    content = {"state_dict": filled(1), "hyper_parameters": {"root": tmp_path, "loss": nn.Module()}}
    torch.save(content, tmp_path / "last.ckpt")
    network = nn.Linear(3, 2)
    load_weights(network, read_checkpoint(tmp_path / "last.ckpt"), "teacher")
    assert network.weight[0, 0].item() == 1


@pytest.mark.parametrize("thread", ["huggingface/transformers#41038", "transformers#38870"])
def test_a_config_that_says_tied_beside_two_matrices(tmp_path: Path, thread: str) -> None:
    """transformers#41038 and #38870: an untied head is saved, and the config is not changed."""
    torch.manual_seed(0)
    kind = transformers.BertForMaskedLM if "41038" in thread else transformers.RobertaForMaskedLM
    network: Any = kind(kind.config_class(**SMALL, tie_word_embeddings=False))
    network.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    loaded: Any = load_hugging_face(str(tmp_path), "teacher").network
    assert loaded.network.config.tie_word_embeddings is False
    matrix = network.get_output_embeddings().weight
    assert torch.equal(loaded.network.get_output_embeddings().weight, matrix)
    assert not torch.equal(loaded.network.get_input_embeddings().weight, matrix)


@pytest.mark.parametrize("kind", ["deberta-v2", "xlm-roberta"])
def test_a_tokenizer_whose_package_is_missing(tmp_path: Path, kind: str) -> None:
    """DeBERTa#117, transformers#42583: the vocabulary is there, and cannot be opened."""
    name = {"deberta-v2": "spm.model", "xlm-roberta": "sentencepiece.bpe.model"}[kind]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / name).write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\0\0\0\0\x18\x02")
    for load in (vocabulary_of, load_tokenizer):
        with pytest.raises(InputError, match=r"^teacher: no tokenizer can be loaded") as caught:
            load(str(tmp_path), "teacher")
        assert "\n" not in str(caught.value)
