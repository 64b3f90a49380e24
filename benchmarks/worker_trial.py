"""What a trial in a worker costs beyond its training: CPU seconds from one training's end to the next one's beginning.

A small and a larger BERT from a config, no checkpoints (the best weights are kept in a file), seven trials in one worker. What
`model_init` takes is the user's own and is shown apart. `python benchmarks/worker_trial.py`
"""

import itertools
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import transformers
from transformers import TrainerCallback

import tunesmith

TRIALS = 7
MODELS = {"1.6 million parameters": (128, 2, 8000), "30 million parameters": (512, 6, 20000)}


def note(folder, what):
    """Append what has happened, with this process's CPU time."""
    with (folder / "notes").open("a") as file:
        file.write(json.dumps([what, time.process_time()]) + "\n")


def model_init(folder, size, trial=None):
    """A BERT with random weights."""
    hidden, layers, words = size
    if trial is not None:
        note(folder, "model_init")
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=words,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=8,
            intermediate_size=4 * hidden,
            max_position_embeddings=64,
        )
    )
    if trial is not None:
        note(folder, "made")
    return model


class Notes(TrainerCallback):
    """Notes when a training begins and ends."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_begin(self, *_, **__):
        note(self.folder, "begins")

    def on_train_end(self, *_, **__):
        note(self.folder, "ends")


class Sentences(torch.utils.data.Dataset):
    """Sixteen sentences."""

    def __len__(self):
        return 16

    def __getitem__(self, i):
        return {"input_ids": torch.arange(16), "labels": i % 2}


def rates(trial):
    """The space."""
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)}


def measure(size):
    """For each trial but the first: CPU seconds between trainings, and those of them that model_init took."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        trainer = tunesmith.Trainer(
            args=transformers.TrainingArguments(
                output_dir=str(folder / "study"),
                num_train_epochs=1,
                eval_strategy="epoch",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            ),
            model_init=partial(model_init, folder, size),
            train_dataset=Sentences(),
            eval_dataset=Sentences(),
            callbacks=[Notes(folder)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.hyperparameter_search(hp_space=rates, n_trials=TRIALS, seed=0, progress=False, pruner=None, workers=1)
        notes = [json.loads(line) for line in (folder / "notes").read_text().splitlines()]
    ends = [i for i, (what, _) in enumerate(notes) if what == "ends"][:TRIALS]
    between, own = [], []
    for first, last in itertools.pairwise(ends):
        times = dict(notes[first + 1 : last])
        between.append(times["begins"] - notes[first][1])
        own.append(times["made"] - times["model_init"])
    return between, own


def main():
    """Print a row per model."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    transformers.logging.set_verbosity_error()
    print("| model | between trainings, CPU s (median, greatest) | of that model_init |")
    print("|---|---|---|")
    for name, size in MODELS.items():
        between, own = measure(size)
        print(f"| {name} | {statistics.median(between):.3f}, {max(between):.3f} | {statistics.median(own):.3f} |")


if __name__ == "__main__":
    main()
