"""What a trial in a worker costs beyond its training: seconds from one training's end to the next one's beginning.

A small and a larger BERT from a config, no checkpoints (the best weights are kept in a file), seven trials in one worker. What
`model_init` takes is the user's own and is shown apart, as is the training, on `--sentences`.
`python benchmarks/worker_trial.py --runner workers ray`
"""

import argparse
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
    """Append what has happened, with this process's CPU time and the time."""
    with (folder / "notes").open("a") as file:
        file.write(json.dumps([what, time.process_time(), time.monotonic()]) + "\n")


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
    """So many sentences."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        return {"input_ids": torch.arange(16), "labels": i % 2}


def rates(trial):
    """The space."""
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3, log=True)}


def measure(size, runner, sentences):
    """For each trial but the first: CPU and wall seconds between trainings, CPU seconds of model_init and of training."""
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
            train_dataset=Sentences(sentences),
            eval_dataset=Sentences(16),
            callbacks=[Notes(folder)],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.hyperparameter_search(
            hp_space=rates, n_trials=TRIALS, seed=0, progress=False, pruner=None, runner=runner, workers=1
        )
        notes = [json.loads(line) for line in (folder / "notes").read_text().splitlines()]
    ends = [i for i, (what, *_) in enumerate(notes) if what == "ends"][:TRIALS]
    rows = []
    for first, last in itertools.pairwise(ends):
        _, cpu, wall = notes[first]
        times = {what: at for what, *at in notes[first + 1 : last + 1]}
        rows.append(
            (
                times["begins"][0] - cpu,
                times["begins"][1] - wall,
                times["made"][0] - times["model_init"][0],
                times["ends"][0] - times["begins"][0],
            )
        )
    return zip(*rows, strict=True)


def main():
    """Print a row per model and runner."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", nargs="+", choices=("workers", "ray"), default=["workers"])
    parser.add_argument("--sentences", type=int, default=16)
    settings = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    transformers.logging.set_verbosity_error()
    print(
        "| model | runner | between trainings, CPU s (median, greatest) | wall s | model_init, CPU s | training, CPU s |"
    )
    print("|---|---|---|---|---|---|")
    for name, size in MODELS.items():
        for runner in settings.runner:
            between, *others = measure(size, runner, settings.sentences)
            cells = [f"{statistics.median(between):.3f}, {max(between):.3f}"]
            cells += [f"{statistics.median(seconds):.3f}" for seconds in others]
            print("|", " | ".join([name, runner, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
