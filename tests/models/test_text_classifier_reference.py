"""Fine-tuning against the Trainer of transformers: an independent reader, loop and optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import sklearn.metrics
import torch
import transformers
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import Sampler, SequentialSampler

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.models.text_classifier import TextClassifier
from tests.models.texts import CALM
from tests.models.tiny import make_trainer

pytestmark = [
    pytest.mark.slow,
    # transformers 5 builds its default optimizer under a name that torch 2.15 deprecates
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STEPS, SIZE, LENGTH = 50, 16, 128
TINY = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,  # large enough for weights to matter
    **CALM,
}
RATES = {"learning_rate": 3e-3, "weight_decay": 0.1}


class Losses(Callback):
    def __init__(self) -> None:
        self.noted: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.noted.append(float(outputs["loss"]))


class Reference(transformers.Trainer):
    """Takes the rows as they come, and notes the loss of every step without rounding."""

    noted: list[float]

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if self.model.training:
            self.noted.append(float(loss.detach()))
        return result


def encoded(
    folder: Path, tokenizer: Any, task: str, split: str, chosen: list[int] | None = None
) -> list[dict[str, Any]]:
    """Rows of a split, read and tokenized without this library."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(folder / task / f"{split}.parquet")
    table = table if chosen is None else table.take(chosen)
    texts = [table[name].to_pylist() for name in TASKS[task].columns]
    tokens = tokenizer(*texts, truncation=True, max_length=LENGTH)
    rows = [dict(zip(tokens, row, strict=True)) for row in zip(*tokens.values(), strict=True)]
    labels = table["label"].to_pylist()
    return [{**row, "labels": label} for row, label in zip(rows, labels, strict=True)]


def scores_of(task: str, logits: Any, labels: Any) -> dict[str, float]:
    if task == "stsb":
        return {
            "pearson": scipy.stats.pearsonr(logits[:, 0], labels).statistic,
            "spearman": scipy.stats.spearmanr(logits[:, 0], labels).statistic,
        }
    functions: dict[str, Any] = {
        "accuracy": sklearn.metrics.accuracy_score,
        "f1": sklearn.metrics.f1_score,
        "matthews": sklearn.metrics.matthews_corrcoef,
    }
    return {name: functions[name](labels, logits.argmax(1)) for name in TASKS[task].metrics}


def body_of(folder: Path, tokenizer: Any) -> str:
    """A Hugging Face folder of a body, as `rrr glue` gets them."""
    torch.manual_seed(5)
    settings = {name: value for name, value in TINY.items() if name != "model_type"}
    transformers.BertModel(transformers.BertConfig(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def reference_of(
    folder: Path, network: Any, tokenizer: Any, rows: list[dict[str, Any]]
) -> Reference:
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=RATES["learning_rate"],
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=RATES["weight_decay"],
    )
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=SIZE,
        per_device_eval_batch_size=64,
        lr_scheduler_type="linear",
        warmup_steps=3,
        max_grad_norm=0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = Reference(
        network,
        arguments,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        train_dataset=rows,
        optimizers=(optimizer, None),
    )
    trainer.noted = []
    return trainer


@pytest.mark.parametrize("task", ["cola", "mrpc", "rte", "stsb", "sst2", "mnli"])
def test_the_losses_and_scores_are_those_of_the_reference(
    rrr_data: Path, tmp_path: Path, task: str
) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    tokenizer = transformers.AutoTokenizer.from_pretrained(rrr_data / "bert-base-uncased")
    data = GlueDataModule(
        task,
        str(rrr_data / "glue"),
        max_length=LENGTH,
        global_batch_size=SIZE,
        eval_batch_size=64,
        seed=5,
    )
    body = body_of(tmp_path / "body", tokenizer)
    model = TextClassifier(body, data.num_classes, seed=5, **RATES)
    network = transformers.BertForSequenceClassification(model.network.config)
    network.load_state_dict(model.network.state_dict())

    losses = Losses()
    trainer = make_trainer(STEPS, callbacks=[losses])
    trainer.fit(model, data)

    order = [index for step in range(STEPS) for _, index in data.batches.micro_batch(step, 0)]
    rows = encoded(rrr_data / "glue", tokenizer, task, "train", order)
    reference = reference_of(tmp_path, network, tokenizer, rows)
    reference.train()
    assert len(losses.noted) == STEPS
    assert losses.noted == pytest.approx(reference.noted, abs=1e-4)
    assert max(losses.noted) - min(losses.noted) > 0.1  # something was learned, or unlearned

    model.network.load_state_dict(network.state_dict())
    judge = make_trainer(1, limit_val_batches=1.0)
    found: dict[str, float] = {}
    for each in judge.validate(model, data, verbose=False):
        found |= each
    for split, suffix in zip(TASKS[task].validation_splits, data.evaluation_suffixes, strict=True):
        predicted = reference.predict(encoded(rrr_data / "glue", tokenizer, task, split))
        expected = scores_of(task, predicted.predictions, predicted.label_ids)
        ours = {name: found[f"val/{name}{suffix}"] for name in expected}
        assert ours == pytest.approx(expected, abs=1e-4)  # rounding swaps close ranks


def test_weights_can_be_exchanged_with_transformers(tmp_path: Path) -> None:
    model = TextClassifier(TINY, 3, seed=1)
    model.network.save_pretrained(tmp_path)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids: Tensor = torch.tensor([[101, 7592, 102]])
    assert torch.equal(again(ids).logits, model.eval().network(ids).logits)
