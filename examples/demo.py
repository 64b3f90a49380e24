"""A real fine-tuning search, offline: which library does a docstring come from.

The texts are the docstrings of the packages installed beside this script; the tokenizer is trained on the spot and
the model is a small BERT from a config. `make demo` runs this in under three minutes on two cores.
"""

from __future__ import annotations

import ast
import importlib.util
import random
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from tunesmith import Trainer
from tunesmith.report.table import trial_table

LIBRARIES = ["numpy", "scipy", "torch", "transformers", "optuna", "sqlalchemy"]
PER_LIBRARY = 200
OUTPUT = Path("demo-output")
torch.set_num_threads(1)  # so small a model gains nothing from more


def docstrings(library: str) -> list[str]:
    """The docstrings in a package's sources; the library's own name is blanked out."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        return []
    found = []
    for path in sorted(Path(spec.origin).parent.rglob("*.py")):
        if len(found) >= 3 * PER_LIBRARY:
            break
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node)
                if text and len(text) > 80:
                    found.append(text[:400].replace(library, "_"))
    random.Random(0).shuffle(found)
    return found[:PER_LIBRARY]


texts, labels = [], []
for label, name in enumerate(LIBRARIES):
    part = docstrings(name)
    texts += part
    labels += [label] * len(part)

# by words: unlike pieces of words, they come out the same at each training, and so does the search
bare = Tokenizer(models.WordLevel(unk_token="[UNK]"))
bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
bare.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=3000, special_tokens=["[PAD]", "[UNK]"]))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32)

examples = [{**tokenizer(text, truncation=True), "labels": label} for text, label in zip(texts, labels, strict=True)]
random.Random(1).shuffle(examples)
cut = len(examples) * 3 // 4
train, evaluation = examples[:cut], examples[cut:]
print(f"{len(train)} docstrings to train on, {len(evaluation)} to evaluate on, from {', '.join(LIBRARIES)}")


def model_init(trial=None):
    """A small BERT; the search may choose its dropout."""
    dropout = 0.1 if trial is None else trial.suggest_float("dropout", 0.0, 0.4)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=32,
            hidden_dropout_prob=dropout,
            num_labels=len(LIBRARIES),
        )
    )


def space(trial):
    """The hyperparameters to search."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-2, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [16, 32, 64]),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.3),
    }


def compute_metrics(prediction):
    """How many docstrings are recognised."""
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


trainer = Trainer(
    model=None,
    args=TrainingArguments(
        output_dir=str(OUTPUT),
        learning_rate=1e-3,
        num_train_epochs=3,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        logging_strategy="no",
        report_to=[],
        use_cpu=True,
    ),
    train_dataset=train,
    eval_dataset=evaluation,
    compute_metrics=compute_metrics,
    processing_class=tokenizer,
    model_init=model_init,
    data_collator=DataCollatorWithPadding(tokenizer),
)
best = trainer.hyperparameter_search(
    hp_space=space,
    compute_objective=lambda metrics: metrics["eval_accuracy"],
    direction="maximize",
    n_trials=10,
    keep_checkpoints="best",
    seed=7,
)

study = best.run_summary
console = Console(width=120)
console.print(trial_table(study.trials, best={int(best.run_id)}))
print(f"\nbest trial: {best.run_id}, accuracy {best.objective:.3f}, with")
for key, value in best.hyperparameters.items():
    print(f"  {key} = {value}")
print(f"trainer.model is that trial's model: evaluated again, accuracy {trainer.evaluate()['eval_accuracy']:.3f}")
print(f"report: {study.directory / 'report.html'}")
print("resume: stop a search with Ctrl-C (or kill it) and run the same command again; it goes on where it was")
