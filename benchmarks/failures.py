"""Are boundaries found within a few failures, and then avoided? LCBench with out-of-memory and divergence simulated.

    TUNESMITH_BENCH=/path/to/problems python benchmarks/failures.py tunesmith.sampler:Sampler optuna.samplers:TPESampler

The problems (see search_quality.py) fail where batch size x width x layers is too much ("oom"), or where the learning rate is
too great for batch size and momentum ("nan"). Regret is 0 at the best of 3,000 random configurations that succeed (it may be
beaten), 1 at the median of random ones.
"""

import argparse
import importlib
import math
import os
from pathlib import Path

import numpy as np
import optuna
from search_quality import problems

POINTS = (10, 20, 40)
MEMORY, RATE = 512 * 1024 * 5 * 0.03, 0.01
PROBLEMS = ("lcb:3945", "lcb:126025", "lcb:167104", "lcb:189354")


def fails(params, kind):
    if kind == "oom":
        return params["batch_size"] * params["max_units"] * params["num_layers"] > MEMORY
    return params["learning_rate"] * (1 - 0.5 * params["momentum"]) / math.sqrt(params["batch_size"] / 64) > RATE


def search(sampler, task, kind, best, median):
    """Failures and regret after each of POINTS."""
    study = optuna.create_study(sampler=sampler)
    failed, least, found = 0, math.inf, []
    for number in range(1, POINTS[-1] + 1):
        trial = study.ask()
        params = {name: trial._suggest(name, distribution) for name, distribution in task.space.items()}
        if fails(params, kind):
            failed += 1
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            value = task.mean(params)
            least = min(least, value)
            study.tell(trial, value)
        if number in POINTS:
            found.append((failed, (least - best) / (median - best) if math.isfinite(least) else 1.0))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("TUNESMITH_BENCH"), help="the problems' folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("samplers", nargs="+", help="module:callable, called with seed=...")
    args = parser.parse_args()
    tasks = problems(None if args.bench is None else Path(args.bench))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("| boundary | sampler |", *(f"failures @{p} | regret @{p} |" for p in POINTS))
    print("|---|---|", *("---|---|" for _ in POINTS))
    for kind in ("oom", "nan"):
        for sampler in args.samplers:
            module, _, name = sampler.partition(":")
            make = getattr(importlib.import_module(module), name)
            runs = []
            for problem in PROBLEMS:
                task = tasks.make(problem)
                rng = np.random.default_rng(1)
                fine = [p for p in (task.sample(rng) for _ in range(3000)) if not fails(p, kind)]
                best = min(task.mean(p) for p in fine)
                median = task.reference()[1]
                runs += [search(make(seed=s), task, kind, best, median) for s in range(args.seeds)]
            means = np.mean(runs, axis=0)
            print(f"| {kind} | {name} |", *(f"{f:.1f} | {r:+.3f} |" for f, r in means), flush=True)


if __name__ == "__main__":
    main()
