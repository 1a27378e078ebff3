from __future__ import annotations

from pathlib import Path

import torch
import transformers

from rrr_lightning.export import export_checkpoint
from rrr_lightning.models.text_bodies import load_body
from rrr_lightning.teachers import load_teacher
from tests.models.glue_runs import WIDE, classifier, task_data
from tests.models.glue_runs import glue as glue
from tests.models.glue_runs import tokenizer as tokenizer
from tests.models.tiny import make_trainer

EXACT = {"rtol": 0.0, "atol": 1e-5}


def test_a_text_classifier_becomes_a_hugging_face_folder(
    tmp_path: Path, glue: str, tokenizer: str
) -> None:
    data = task_data(glue, tokenizer)
    model = classifier(body={**WIDE, "vocab_size": 192})  # more than the tokenizer has
    trainer = make_trainer(2)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    folder = export_checkpoint(tmp_path / "last.ckpt", tmp_path / "rte")
    batch = data.split("train")[[(0, 3), (0, 8)]]
    expected = model.eval().logits(batch)

    network = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert network.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert network.config.vocab_size == data.vocabulary_size
    torch.testing.assert_close(network(**batch).logits, expected, **EXACT)
    again = transformers.AutoTokenizer.from_pretrained(folder)
    assert again("the cat", "sat")["input_ids"] == data.tokenizer("the cat", "sat")["input_ids"]
    assert again.model_max_length == 64

    teacher = load_teacher(str(folder))
    assert teacher.schema.labels == ("entailment", "not_entailment")
    assert teacher.schema.input_vocabulary == model.schema().input_vocabulary
    torch.testing.assert_close(teacher.logits(batch), expected, **EXACT)
    body = load_body(str(folder), pretrained=True)
    assert body.vocabulary is not None
    assert body.vocabulary.tokens == data.vocabulary
    card = (folder / "README.md").read_text()
    for said in ("text-classification", "AutoModelForSequenceClassification", "task: rte"):
        assert said in card
