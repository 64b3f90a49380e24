"""Seconds of a whole search of real fine-tuning trials, beside transformers' own: to its end, and to as good a value.

The same Trainer, space and budget through transformers' `hyperparameter_search(backend="optuna")` with its defaults and
through ours: with our defaults, and with two worker processes. Both sides stop trials early, Optuna by the median, ours
by its model. Each search runs in a process of its own on one seed after the other, the variants in turn. The task: which
library does a docstring come from (installed packages, a small BERT from a config, words as tokens).

    python benchmarks/end_to_end.py --seeds 3 --trials 20

Prints, a row per variant: wall seconds of the search, the share of transformers' wall at which its final objective was
reached (inf: never), CPU seconds of all processes, the best objective, the greatest resident memory of any one process,
bytes left on disk. Compare ratios within one run; a loaded machine changes every second, CPU time least.
"""

import argparse
import ast
import contextlib
import importlib.util
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

VARIANTS = {
    "transformers": None,
    "tunesmith": {},
    "tunesmith, workers=2": {"workers": 2},
}
LIBRARIES = ("numpy", "scipy", "torch", "transformers", "sympy", "sklearn")
PER_LIBRARY = 300
LENGTH = 64
EVALUATIONS = 6


def texts():
    """Docstrings and the number of the library that each comes from, the same ones in each process."""
    found = []
    for label, library in enumerate(LIBRARIES):
        spec = importlib.util.find_spec(library)
        if spec is None or spec.origin is None:
            sys.exit(f"the benchmark reads docstrings of {', '.join(LIBRARIES)}, and {library} is not installed")
        own = []
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8", errors="replace"))):
                text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
                if text and len(text) > 80:
                    own.append((text[:500].replace(library, "_"), label))
            if len(own) > 4 * PER_LIBRARY:
                break
        found += random.Random(0).sample(own, PER_LIBRARY)
    random.Random(1).shuffle(found)
    return found


def one_search(variant, trials, seed, home, rows):
    """Run one search in this process; print the wall seconds and (seconds, objective) of each trial as JSON."""
    import numpy as np
    import optuna
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers import trainers as vocabulary

    import tunesmith

    transformers.logging.set_verbosity_error()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    bare = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bare.train_from_iterator(
        (text for text, _ in rows), vocabulary.WordLevelTrainer(vocab_size=4000, special_tokens=["[PAD]", "[UNK]"])
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="[PAD]", unk_token="[UNK]", model_max_length=LENGTH
    )
    data = [{**tokenizer(text, truncation=True), "labels": label} for text, label in rows]
    cut = len(data) * 3 // 4
    words = len(tokenizer)

    def model_init():
        return transformers.BertForSequenceClassification(
            transformers.BertConfig(
                vocab_size=words,
                hidden_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=256,
                max_position_embeddings=LENGTH,
                num_labels=len(LIBRARIES),
            )
        )

    def space(trial):
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
            "weight_decay": trial.suggest_float("weight_decay", 1e-4, 1.0, log=True),
            "adam_beta2": trial.suggest_float("adam_beta2", 0.9, 0.9999),
            "max_grad_norm": trial.suggest_float("max_grad_norm", 0.01, 10.0, log=True),
        }

    def accuracy(prediction):
        return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}

    settings = VARIANTS[variant]
    kind = transformers.Trainer if settings is None else tunesmith.Trainer
    trainer = kind(
        args=transformers.TrainingArguments(
            output_dir=home,
            num_train_epochs=3,
            per_device_eval_batch_size=64,
            eval_strategy="steps",
            eval_steps=1 / EVALUATIONS,
            save_strategy="steps",
            save_steps=1 / EVALUATIONS,
            save_total_limit=1,
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        model_init=model_init,
        train_dataset=data[:cut],
        eval_dataset=data[cut:],
        compute_metrics=accuracy,
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    began, wall = time.time(), time.perf_counter()
    common = {
        "hp_space": space,
        "compute_objective": lambda metrics: metrics["eval_accuracy"],
        "direction": "maximize",
        "n_trials": trials,
    }
    if settings is None:
        # upstream's default sampler, with a seed; the study is at hand by way of a callback
        studies = []
        trainer.hyperparameter_search(
            **common,
            backend="optuna",
            sampler=optuna.samplers.TPESampler(seed=seed),
            catch=(Exception,),
            storage=kept_storage(studies),
        )
        ended = [
            (t.datetime_complete.timestamp(), t.value) for t in studies[0].get_all_trials(0) if t.value is not None
        ]
    else:
        best = trainer.hyperparameter_search(**common, seed=seed, progress=False, **settings)
        ended = [(t.ended, t.value) for t in best.run_summary.trials if t.value is not None]
    print(json.dumps({"wall": time.perf_counter() - wall, "trials": sorted((t - began, v) for t, v in ended)}))


def kept_storage(studies):
    """A storage of Optuna's that can be read after the search (transformers gives its study away to nobody)."""
    import optuna

    studies.append(optuna.storages.InMemoryStorage())
    return studies[0]


def watch(process, done, memory, cpu):
    """The resident memory and, by process, the CPU seconds of all below `process`, sampled five times a second."""
    import psutil

    while not done.wait(0.2):
        try:
            family = [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory.append(member.memory_info().rss)
                cpu[member.pid] = sum(member.cpu_times()[:2])


def run(variant, trials, seed, data):
    """One search in a process of its own: its figures with the peak memory and the disk it leaves."""
    import psutil

    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable,
            __file__,
            "--only",
            variant,
            "--trials",
            str(trials),
            "--seed",
            str(seed),
            "--data",
            data,
        ]
        process = subprocess.Popen(
            [*command, "--home", home], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        done, memory, cpu = threading.Event(), [], {}
        watcher = threading.Thread(target=watch, args=(psutil.Process(process.pid), done, memory, cpu))
        watcher.start()
        out, err = process.communicate()
        done.set()
        watcher.join()
        if process.returncode:
            sys.exit(f"the search of {variant} failed:\n{err}")
        disk = sum(f.stat().st_size for f in Path(home).rglob("*") if f.is_file())
    return {**json.loads(out.splitlines()[-1]), "cpu": sum(cpu.values()), "memory": max(memory), "disk": disk}


def reached(trials, objective):
    """Seconds until a trial was at least that good; inf when none was."""
    return next((seconds for seconds, value in trials if value >= objective), math.inf)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--only", choices=VARIANTS, help="run one search in this process (what the benchmark starts)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home")
    parser.add_argument("--data")
    args = parser.parse_args()
    if args.only:
        one_search(args.only, args.trials, args.seed, args.home, json.loads(Path(args.data).read_text()))
        return
    results = {variant: [] for variant in VARIANTS}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as data:
        json.dump(texts(), data)
        data.flush()
        search_all(results, args.seeds, args.trials, data.name)


def search_all(results, seeds, trials, data):
    """Run each variant on each seed, with a table after each."""
    for seed in range(seeds):
        for variant, rows in results.items():
            rows.append(run(variant, trials, seed, data))
            best = max(value for _, value in rows[-1]["trials"])
            load = os.getloadavg()[1]
            print(
                f"seed {seed}, {variant}: {rows[-1]['wall']:.0f} s, best {best:.4f}, load {load:.1f}", file=sys.stderr
            )
        print_table(results)


def print_table(results):
    """Print a row per variant: medians over the seeds so far."""
    stock = results["transformers"]
    goals = [max(value for _, value in row["trials"]) for row in stock]
    print(
        "| search | wall s | wall / transformers | until its final objective / its wall | CPU s | best | memory MB | disk MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for variant, rows in results.items():
        wall = [row["wall"] for row in rows]
        ratio = [row["wall"] / other["wall"] for row, other in zip(rows, stock, strict=True)]
        until = [reached(r["trials"], g) / o["wall"] for r, g, o in zip(rows, goals, stock, strict=True)]
        best = [max(value for _, value in row["trials"]) for row in rows]
        print(
            f"| {variant} | {statistics.median(wall):.0f} | {statistics.median(ratio):.2f} | "
            f"{statistics.median(until):.2f} ({', '.join(f'{u:.2f}' for u in until)}) | "
            f"{statistics.median(row['cpu'] for row in rows):.0f} | {statistics.mean(best):.4f} | "
            f"{max(row['memory'] for row in rows) / 1e6:.0f} | {max(row['disk'] for row in rows) / 1e6:.0f} |"
        )


if __name__ == "__main__":
    main()
