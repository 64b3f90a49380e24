"""The example of transformers' guide, for a machine that reaches the hub: BERT on GLUE's MRPC.

Needs: pip install "tunesmith[transformers]" datasets
"""

from __future__ import annotations

import numpy as np
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, TrainingArguments

from tunesmith import Trainer

NAME = "google-bert/bert-base-cased"
tokenizer = AutoTokenizer.from_pretrained(NAME)
raw = load_dataset("nyu-mll/glue", "mrpc")
data = raw.map(lambda row: tokenizer(row["sentence1"], row["sentence2"], truncation=True), batched=True)


def model_init(trial=None):  # noqa: ARG001  nothing of the model is searched
    """A fresh pretrained model for each trial."""
    return AutoModelForSequenceClassification.from_pretrained(NAME, num_labels=2)


def space(trial):
    """What the guide searches."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [16, 32, 64, 128]),
    }


trainer = Trainer(
    model=None,
    args=TrainingArguments(
        output_dir="mrpc-search", eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True
    ),
    train_dataset=data["train"],
    eval_dataset=data["validation"],
    compute_metrics=lambda p: {"accuracy": float(np.mean(p.predictions.argmax(-1) == p.label_ids))},
    processing_class=tokenizer,
    model_init=model_init,
    data_collator=DataCollatorWithPadding(tokenizer),
)
best = trainer.hyperparameter_search(
    direction="maximize", hp_space=space, n_trials=20, compute_objective=lambda m: m["eval_accuracy"]
)
print("best", best)
