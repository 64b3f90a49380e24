"""How good are the settings that a sampler finds? Regret on looked-up tuning problems, ours beside peers.

    TUNESMITH_BENCH=/path/to/problems python benchmarks/search_quality.py run tunesmith.sampler:Sampler --out ours.jsonl
    TUNESMITH_BENCH=/path/to/problems python benchmarks/search_quality.py compare ours.jsonl peer.jsonl
    TUNESMITH_BENCH=/path/to/problems python benchmarks/search_quality.py run peers:smac --out smac.jsonl
    python benchmarks/search_quality.py latency
    TUNESMITH_BENCH=/path/to/problems python benchmarks/search_quality.py crowd ts:4 --workers 1000 --trials 20000

peers.py has tuners that are not Optuna's. `run --parallel 8` keeps eight trials in flight: the oldest ends first, and regret counts what has ended.

The folder holds `tasks.py` (`PUBLIC`: names; `make(name)`: an object with `space`, `loss(params, rng)`, `mean(params)` and
`reference()`, which gives the best known value and that of a median random configuration) and its data. Regret is 0 at
the best known value and 1 at the median of random ones; the incumbent is chosen by what was observed and scored on the
noise-free mean. Intervals are 90 % bootstraps over problems.
"""

import argparse
import heapq
import importlib
import inspect
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import optuna

from tunesmith.dimensions import dimensions
from tunesmith.engine import Number, Observation, suggest, suggest_many
from tunesmith.engine.ensemble import fitted_on

POINTS = (5, 10, 20, 50, 100)
RANDOM = 20_000  # random configurations that `crowd` takes the expectation over


def problems(folder):
    """The module that makes the problems, or an exit that says how to name its folder."""
    if folder is None or not (folder / "tasks.py").exists():
        sys.exit(f"the problems' folder must hold tasks.py, got {folder}; name it by --bench or TUNESMITH_BENCH")
    sys.path.insert(0, str(folder))
    return importlib.import_module("tasks")


def search(sampler, task, seed, trials, parallel=1):
    """Regret of the incumbent after each trial, and CPU milliseconds per ask in the later half."""
    rng = np.random.default_rng(1000 + seed)
    study = optuna.create_study(sampler=sampler)
    best, median = task.reference()
    incumbent, regret, cpu, flying = (np.inf, np.nan), [], [], []
    for _ in range(trials):
        while len(flying) < parallel and len(cpu) < trials:
            began = time.process_time()
            trial = study.ask()
            params = {name: trial._suggest(name, distribution) for name, distribution in task.space.items()}
            cpu.append(1e3 * (time.process_time() - began))
            flying.append((trial, params))
        trial, params = flying.pop(0)
        loss = task.loss(params, rng)
        study.tell(trial, loss)
        if loss < incumbent[0]:
            incumbent = (loss, task.mean(params))
        regret.append(round((incumbent[1] - best) / (median - best), 6))
    return {"regret": regret, "cpu_ms": round(float(np.mean(cpu[trials // 2 :])), 2)}


def run(args):
    tasks = problems(args.bench)
    module, _, name = args.sampler.partition(":")
    make = getattr(importlib.import_module(module), name)
    foretold = "space" in inspect.signature(make).parameters
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["task"], r["seed"]) for r in map(json.loads, lines)}
    with args.out.open("a") as out:
        for seed in range(args.seeds):
            for task in tasks.PUBLIC:
                if (task, seed) not in done:
                    problem = tasks.make(task)
                    sampler = make(seed=seed, space=problem.space) if foretold else make(seed=seed)
                    found = search(sampler, problem, seed, args.trials, args.parallel)
                    out.write(json.dumps({"task": task, "seed": seed, "trials": args.trials, **found}) + "\n")
                    out.flush()


def compare(args):
    runs = [{(r["task"], r["seed"]): r for r in map(json.loads, p.read_text().splitlines())} for p in args.files]
    keys = sorted(set.intersection(*map(set, runs)))
    if not keys:
        sys.exit("the files must share at least one run (task, seed); run them on the same problems and seeds")
    length = min(len(r[k]["regret"]) for r in runs for k in keys)
    points = [p for p in POINTS if p <= length]
    curves = [np.array([r[k]["regret"][:length] for k in keys]) for r in runs]
    tasks = sorted({task for task, _ in keys})
    print(f"{len(keys)} runs on {len(tasks)} problems\n")
    print("| sampler |", *(f"@{p} |" for p in points), "CPU ms/ask |")
    for path, r, c in zip(args.files, runs, curves, strict=True):
        cpu = np.mean([r[k]["cpu_ms"] for k in keys])
        print(f"| {path.stem} |", *(f"{c[:, p - 1].mean():.3f} |" for p in points), f"{cpu:.1f} |")
    print(f"\n| {args.files[0].stem} against |", *(f"@{p} |" for p in points))
    rng = np.random.default_rng(0)
    for path, c in zip(args.files[1:], curves[1:], strict=True):
        cells = []
        for p in points:
            gain = c[:, p - 1] - curves[0][:, p - 1]
            means = np.array([gain[[k[0] == t for k in keys]].mean() for t in tasks])
            low, high = np.percentile(rng.choice(means, (4000, len(means))).mean(1), [5, 95])
            cells.append(f"{means.mean():+.3f} [{low:+.3f}, {high:+.3f}] |")
        print(f"| {path.stem} |", *cells)
    print(f"\n| {args.files[0].stem} needs, to reach |", *(f"@{p} |" for p in POINTS))
    for path, r in zip(args.files[1:], runs[1:], strict=True):
        theirs = np.array([r[k]["regret"][: min(len(r[k]["regret"]) for k in keys)] for k in keys]).mean(0)
        print(
            f"| {path.stem} |", *(f"{_reached(curves[0].mean(0), theirs[p - 1])} |" for p in POINTS if p <= len(theirs))
        )


def _reached(curve, value):
    hits = np.flatnonzero(curve <= value)
    return f"{hits[0] + 1} trials" if len(hits) else f"more than {len(curve)}"


def latency(args):  # noqa: ARG001  every command takes the arguments
    """CPU milliseconds of one suggestion of ten parameters, as trials finish one by one and hyperparameters become due."""
    space = {f"x{k}": Number(0.0, 1.0) for k in range(10)}
    rng = np.random.default_rng(0)
    rows = rng.random((10_100, 10))
    history = [Observation(dict(zip(space, x.tolist(), strict=True)), (float(((x - 0.4) ** 2).sum()),)) for x in rows]
    suggest(space, history[:5], [], seed=0, number=5)
    print("| finished trials | CPU ms, median | CPU ms, the slowest of 12 asks |")
    for trials in (20, 100, 1000, 10_000):
        due = next(n for n in range(trials, 0, -1) if fitted_on(n) == n)
        spent = []
        for count in range(due - 5, due + 8):  # the first finds nothing remembered: that is once in a process
            began = time.process_time()
            suggest(space, history[:count], [], seed=0, number=count)
            spent.append(1e3 * (time.process_time() - began))
        print(f"| {trials} | {np.median(spent[1:]):.1f} | {max(spent[1:]):.1f} |")
    began = time.process_time()
    suggest_many(space, history[:5000], [], seed=0, numbers=range(5000, 5256), fixed={})
    print(f"256 suggestions at once at 5,000 trials: {time.process_time() - began:.1f} s CPU")


def crowd(args):
    """Many workers, trials of random length: CPU per ask, and regret beside what random search comes to in the mean."""
    task = problems(args.bench).make(args.problem)
    best, median = task.reference()
    space, history, flying, cpu = dimensions(task.space), [], [], []
    rng, noise = np.random.default_rng(0), np.random.default_rng(1)
    pool = np.sort([task.mean(task.sample(rng)) for _ in range(RANDOM)])
    least = math.inf
    print("| finished | regret | regret of random search | CPU ms/ask |\n|---|---|---|---|")
    now, marks = 0.0, {args.trials * k // 20 for k in (1, 2, 5, 10, 20)}
    for number in range(args.trials + args.workers):
        if number >= args.workers:
            now, _, params = heapq.heappop(flying)
            history.append(Observation(params, (task.loss(params, noise),)))
            least = min(least, task.mean(params))
            if len(history) in marks:
                chance = 1 - np.arange(RANDOM + 1) / RANDOM  # that one draw is no lower than each of the pool
                expected = -np.diff(chance ** len(history)) @ pool
                cells = [(value - best) / (median - best) for value in (least, expected)]
                print(f"| {len(history)} | {cells[0]:.3f} | {cells[1]:.3f} | {np.mean(cpu[-500:]):.0f} |", flush=True)
        if number < args.trials:
            began = time.process_time()
            params = suggest(space, history, [p for _, _, p in flying], seed=args.seed, number=number).params
            cpu.append(1e3 * (time.process_time() - began))
            heapq.heappush(flying, (now + rng.lognormal(0.0, 0.5), number, params))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("TUNESMITH_BENCH"), help="the problems' folder")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="run a sampler; runs that are in the file already are skipped")
    command.add_argument("sampler", help="module:callable, called with seed=... (and space=..., if it takes that)")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--trials", type=int, default=50)
    command.add_argument("--seeds", type=int, default=10)
    command.add_argument("--parallel", type=int, default=1, help="trials in flight")
    command.set_defaults(call=run)
    command = commands.add_parser("compare", help="hold result files against the first")
    command.add_argument("files", type=Path, nargs="+")
    command.set_defaults(call=compare)
    commands.add_parser("latency", help="CPU time of the engine by number of trials").set_defaults(call=latency)
    command = commands.add_parser("crowd", help="many workers at once on one problem")
    command.add_argument("problem")
    command.add_argument("--workers", type=int, default=1000)
    command.add_argument("--trials", type=int, default=20_000)
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(call=crowd)
    args = parser.parse_args()
    args.bench = None if args.bench is None else Path(args.bench)
    args.call(args)


if __name__ == "__main__":
    main()
