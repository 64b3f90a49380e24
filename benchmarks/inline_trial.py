"""What a trial costs beyond its training, and what it leaves behind: transformers' own search and ours, side by side.

The same trials (same seed, model, data and hyperparameters; 20 by default) run through both, each search in a process
of its own, the two in turn for some rounds. Time is from one trial's start to the next one's, so everything between
two trainings counts; the median trial is shown. The resident memory and the models still alive are read whenever `model_init`
is called. `python benchmarks/inline_trial.py`
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
import weakref

SEARCHES = ("transformers", "tunesmith")


def measure(which, trials):
    """Run one search in this process; print the figures of its trials as JSON."""
    import optuna
    import psutil
    import torch
    import transformers

    import tunesmith

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, 500, (384, 32), generator=generator)
    data = [{"input_ids": row, "labels": row[0] % 2} for row in rows]
    alive, process, starts = weakref.WeakSet(), psutil.Process(), {}

    def model_init(trial=None):
        if trial is not None and trial.number not in starts and len(starts) < trials:
            left = len(alive)
            starts[trial.number] = (time.perf_counter(), time.process_time(), process.memory_info().rss, left)
        config = transformers.BertConfig(
            vocab_size=500, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
        )
        model = transformers.BertForSequenceClassification(config)
        alive.add(model)
        return model

    kind = tunesmith.Trainer if which == "tunesmith" else transformers.Trainer
    quiet = {"progress": False} if which == "tunesmith" else {}
    with tempfile.TemporaryDirectory() as home:
        trainer = kind(
            args=transformers.TrainingArguments(
                output_dir=home,
                num_train_epochs=1,
                per_device_train_batch_size=16,
                eval_strategy="epoch",
                save_strategy="epoch",
                save_total_limit=1,
                disable_tqdm=True,
                log_level="error",
                logging_strategy="no",
                report_to=[],
                use_cpu=True,
            ),
            model_init=model_init,
            train_dataset=data[:256],
            eval_dataset=data[256:],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.hyperparameter_search(
            hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-3, log=True)},
            backend="optuna",
            n_trials=trials,
            sampler=optuna.samplers.RandomSampler(seed=0),
            **quiet,
        )
    print(json.dumps([starts[number] for number in sorted(starts)]))


def run(which, trials):
    """Run one search in a process of its own; one row a trial: wall and CPU time at its start, resident bytes, models alive."""
    command = [sys.executable, __file__, "--only", which, "--trials", str(trials)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="trials of a search, at least 4")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each kind, in turn")
    parser.add_argument("--only", choices=SEARCHES, help="run one search here and print its figures as JSON")
    settings = parser.parse_args()
    if settings.only:
        measure(settings.only, settings.trials)
        return
    spent = {which: ([], []) for which in SEARCHES}  # wall and CPU seconds
    memory, alive = {}, {}
    for _ in range(settings.rounds):
        for which in SEARCHES:
            rows = run(which, settings.trials)
            for column, seconds in enumerate(spent[which]):
                # the first trial of a process pays for what is loaded late
                seconds += [b[column] - a[column] for a, b in itertools.pairwise(rows[1:])]
            memory[which] = [row[2] / 2**20 for row in rows]
            alive[which] = [row[3] for row in rows[1:]]
    print("search         wall s  ratio   CPU s  ratio  MiB at trial 2  at the last  change  models alive")
    base = [statistics.median(seconds) for seconds in spent[SEARCHES[0]]]
    for which in SEARCHES:
        wall, cpu = (statistics.median(seconds) for seconds in spent[which])
        first, last = memory[which][2], memory[which][-1]
        print(
            f"{which:13} {wall:7.3f} {wall / base[0]:6.3f} {cpu:7.3f} {cpu / base[1]:6.3f} {first:15.1f} {last:12.1f} "
            f"{last / first - 1:7.1%} {max(alive[which]):13}"
        )


if __name__ == "__main__":
    main()
