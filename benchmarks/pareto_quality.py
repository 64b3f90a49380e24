"""How good are the trade-offs that a sampler finds? Dominated volume on two-objective problems, ours beside peers.

    TUNESMITH_BENCH=/path/to/problems python benchmarks/pareto_quality.py run tunesmith.sampler:Sampler --out ours.jsonl
    TUNESMITH_BENCH=/path/to/problems python benchmarks/pareto_quality.py compare ours.jsonl peer.jsonl

The problems (see search_quality.py) get a second objective: LoRA fine-tuning its model's size (log perplexity or BLEU
against size), LCBench the time of training or the network's size. Regret is the share of the best known front's dominated
volume that the front of all trials so far leaves out; both on noise-free means.
"""

import argparse
import importlib
import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import optuna
from search_quality import problems

from tunesmith.dimensions import dimensions
from tunesmith.engine.encoding import Cube
from tunesmith.engine.pareto import hypervolume, nondominated

POINTS = (10, 20, 50)
POOL, GENERATIONS = 4000, 20  # random configurations, and rounds of steps from their front, for the best known front
LCBENCH = ("3945", "126025", "167104", "189354")
PROBLEMS = (
    *(f"lcb:{s}+{second}" for s in LCBENCH for second in ("time", "size")),
    *(f"lora:{s}+size" for s in ("fr-en/bloomz/perplexity", "fr-en/bloomz/bleu")),
    *(f"lora:{s}+size" for s in ("zh-en/xglm/perplexity", "zh-en/xglm/bleu")),
)


class Problem:
    """One problem with two losses, `both(params)`."""

    def __init__(self, tasks, name):
        base, _, self.second = name.partition("+")
        self.task = tasks.make(base)
        self.space = self.task.space

    def both(self, params):
        return self.task.mean(params), self._other(params)

    def _other(self, params):
        if "lora_r" in params:
            width, layers = map(int, params["model"].split("-"))
            return 12e-9 * width**2 * layers  # 1e9 weights of the blocks
        if self.second == "size":
            return math.log10(params["max_units"] ** 2 * params["num_layers"])
        x = [52, *(params[c] for c in ("batch_size", "learning_rate", "momentum", "weight_decay", "num_layers"))]
        x = np.array([[*x, params["max_units"], params["max_dropout"]]], np.float32)
        out = self.task._net.run(None, {"x_cont": x, "x_cat": np.full((1, 1), self.task._set, np.int32)})[0]
        return float(out[0, 0])

    def reference(self):
        """(reference point, volume of the best known front): a tenth beyond the 75th percentiles of random configurations."""
        rng = np.random.default_rng(12345)
        cube = Cube(dimensions(self.space))
        points = cube.from_uniform(rng.random((POOL, len(cube))))
        losses = np.array([self.both(cube.decode(x)) for x in points])
        worst, best = np.quantile(losses, 0.75, axis=0), losses.min(0)
        for scale in np.geomspace(0.3, 0.02, GENERATIONS):
            keep = on_front(losses)
            points, losses = points[keep], losses[keep]
            moved = cube.move(points[rng.integers(len(points), size=200)], rng, scale=scale, share=0.4)
            points = np.vstack([points, moved])
            losses = np.vstack([losses, [self.both(cube.decode(x)) for x in moved]])
        reference = worst + 0.1 * (worst - best)
        return reference, hypervolume(losses[on_front(losses)], reference)


def on_front(losses):
    """Which of many rows no other dominates."""
    keep = np.arange(len(losses))
    for start in range(0, len(losses), 500):  # the front of each block alone, then of what is left
        block = keep[(keep >= start) & (keep < start + 500)]
        keep = np.setdiff1d(keep, block[~nondominated(losses[block])])
    return keep[nondominated(losses[keep])]


def search(sampler, problem, trials, reference):
    """Regret of the front after each trial, and CPU milliseconds per ask in the later half."""
    point, best = reference
    study = optuna.create_study(sampler=sampler, directions=["minimize", "minimize"])
    losses, regret, cpu = [], [], []
    for _ in range(trials):
        began = time.process_time()
        trial = study.ask()
        params = {name: trial._suggest(name, distribution) for name, distribution in problem.space.items()}
        cpu.append(1e3 * (time.process_time() - began))
        losses.append(problem.both(params))
        study.tell(trial, losses[-1])
        found = np.array(losses)
        regret.append(round(1 - hypervolume(found[nondominated(found)], point) / best, 6))
    return {"regret": regret, "cpu_ms": round(float(np.mean(cpu[trials // 2 :])), 2)}


def run(args):
    tasks = problems(args.bench)
    module, _, name = args.sampler.partition(":")
    make = getattr(importlib.import_module(module), name)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["task"], r["seed"]) for r in map(json.loads, lines)}
    with args.out.open("a") as out:
        for name in args.problems.split(","):
            problem = Problem(tasks, name)
            reference = problem.reference()
            for seed in range(args.seeds):
                if (name, seed) not in done:
                    found = search(make(seed=seed), problem, args.trials, reference)
                    out.write(json.dumps({"task": name, "seed": seed, "trials": args.trials, **found}) + "\n")
                    out.flush()


def compare(args):
    runs = [{(r["task"], r["seed"]): r for r in map(json.loads, p.read_text().splitlines())} for p in args.files]
    keys = sorted(set.intersection(*map(set, runs)))
    if not keys:
        sys.exit("the files must share at least one run (task, seed); run them on the same problems and seeds")
    curves = [np.array([r[k]["regret"] for k in keys]) for r in runs]
    names = sorted({name for name, _ in keys})
    points = [p for p in POINTS if p <= curves[0].shape[1]]
    print(f"{len(keys)} runs on {len(names)} problems\n")
    print("| sampler |", *(f"@{p} |" for p in points), "CPU ms/ask |")
    print("|---|", *("---|" for _ in points), "---|")
    for path, r, c in zip(args.files, runs, curves, strict=True):
        cpu = np.mean([r[k]["cpu_ms"] for k in keys])
        print(f"| {path.stem} |", *(f"{c[:, p - 1].mean():.3f} |" for p in points), f"{cpu:.1f} |")
    print(f"\n| {args.files[0].stem} against |", *(f"@{p} |" for p in points))
    print("|---|", *("---|" for _ in points))
    rng = np.random.default_rng(0)
    for path, c in zip(args.files[1:], curves[1:], strict=True):
        cells = []
        for p in points:
            gain = c[:, p - 1] - curves[0][:, p - 1]
            means = np.array([gain[[k[0] == name for k in keys]].mean() for name in names])
            low, high = np.percentile(rng.choice(means, (4000, len(means))).mean(1), [5, 95])
            cells.append(f"{means.mean():+.3f} [{low:+.3f}, {high:+.3f}] |")
        print(f"| {path.stem} |", *cells)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("TUNESMITH_BENCH"), help="the problems' folder")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="run a sampler; runs that are in the file already are skipped")
    command.add_argument("sampler", help="module:callable, called with seed=...")
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--trials", type=int, default=50)
    command.add_argument("--seeds", type=int, default=10)
    command.add_argument("--problems", default=",".join(PROBLEMS))
    command.set_defaults(call=run)
    command = commands.add_parser("compare", help="hold result files against the first")
    command.add_argument("files", type=Path, nargs="+")
    command.set_defaults(call=compare)
    args = parser.parse_args()
    args.bench = None if args.bench is None else Path(args.bench)
    args.call(args)


if __name__ == "__main__":
    main()
