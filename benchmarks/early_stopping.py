"""Does early stopping pay? Searches with the budget of twenty full trainings, on problems with real learning curves.

    TUNESMITH_BENCH=/path/to/problems python benchmarks/early_stopping.py run --way stopper --out results.jsonl
    TUNESMITH_BENCH=/path/to/problems python benchmarks/early_stopping.py compare results.jsonl

The problems (see search_quality.py) are those that have `curve(params)`: the losses in the course of training. A trial
reports at sixteen or fewer shares of its training (`--reports`), and a stopped one costs the share that it ran. Regret is that of the best
full trial. `compare` holds the ways of a file against each other, twice. By budget: regret, the share of the budget that
reaches the mean end of TPE without pruning on the same problem (median over runs; inf: never), and trials begun. By trials,
as `n_trials` counts them: regret after so many were begun, and what they cost, in full trainings; there stopping can gain
nothing but time.
"""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
from search_quality import problems

from tunesmith.backends import Setting
from tunesmith.backends.engine import EngineBackend
from tunesmith.backends.optuna import OptunaBackend
from tunesmith.trial import Report, Trial, TrialState

BUDGET = 20.0
WAYS = {
    "engine": lambda setting: EngineBackend(setting, pruner=None),
    "stopper": lambda setting: EngineBackend(setting, pruner="model"),
    "engine+median": lambda setting: EngineBackend(setting, pruner=optuna.pruners.MedianPruner()),
    "tpe": lambda setting: OptunaBackend(setting, pruner=optuna.pruners.NopPruner()),
    "tpe+median": lambda setting: OptunaBackend(setting, pruner=optuna.pruners.MedianPruner()),
    "tpe+hyperband": lambda setting: OptunaBackend(setting, pruner=optuna.pruners.HyperbandPruner(4, 100)),
}


def search(way, task, seed, reports):
    """[budget spent, least regret of the full trials so far] after each trial that ended within the budget."""
    trials, spent, found, least = [], 0.0, [], np.inf
    best, median = task.reference()
    backend = WAYS[way](Setting(["minimize"], seed, lambda: tuple(trials), space=task.space))
    while spent < BUDGET:
        number = len(trials)
        trials.append(Trial(number, TrialState.RUNNING))
        offered = backend.ask(number, {})
        params = {k: offered.params.get(k, None) for k in task.space}
        params = {k: offered.draw(k, task.space[k]) if v is None else v for k, v in params.items()}
        trial = replace(trials[number], params=params, distributions=task.space)
        curve = task.curve(params)
        steps = sorted({round(k) for k in np.linspace(0, len(curve), reports + 1)[1:]})
        for step in steps:
            report = Report(step, (float(curve[step - 1]),), share=step / len(curve))
            trial = trials[number] = replace(trial, reports=(*trial.reports, report))
            if spent + report.share > BUDGET or (report.share < 1 and backend.judge(trial).action == "prune"):
                break
        spent += report.share
        if spent > BUDGET:
            break
        if report.share == 1:
            value = task.mean(params)
            trial = replace(trial, state=TrialState.COMPLETE, values=(value,))
            least = min(least, value)
        else:
            trial = replace(trial, state=TrialState.PRUNED)
        found.append([round(spent, 4), round((least - best) / (median - best), 6)])  # the first trial is a full one
        trials[number] = trial
        backend.tell(trial)
    return {"found": found}


def run(args):
    tasks = problems(args.bench)
    names = [n for n in tasks.PUBLIC if tasks.make(n).has_curve]
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["way"], r["task"], r["seed"]) for r in map(json.loads, lines)}
    with args.out.open("a") as out:
        for seed in range(args.seeds):
            for name in names:
                if (args.way, name, seed) not in done:
                    found = search(args.way, tasks.make(name), seed, args.reports)
                    out.write(json.dumps({"way": args.way, "task": name, "seed": seed, **found}) + "\n")
                    out.flush()


def at(run, budget):
    """Regret when so much is spent."""
    return [regret for spent, regret in run["found"] if spent <= budget + 1e-6][-1]


def after(run, trials):
    """What the first trials cost, and the regret then; of all trials where the budget was for fewer."""
    return run["found"][:trials][-1]


def compare(args):
    runs = {}
    for line in map(json.loads, args.file.read_text().splitlines()):
        runs.setdefault(line["way"], {})[line["task"], line["seed"]] = line
    keys = sorted(set.intersection(*map(set, runs.values())))
    tasks = sorted({k[0] for k in keys})
    goal = (
        {t: np.mean([at(runs["tpe"][k], BUDGET) for k in keys if k[0] == t]) for t in tasks} if "tpe" in runs else None
    )
    budgets, counts = (5, 10, 15, 20), (10, 20)
    print(f"{len(keys)} runs on {len(tasks)} problems, budget {BUDGET:g}\n")
    print("| way |", *(f"@{b} |" for b in budgets), "reaches TPE's end at | trials | end against the engine alone |")
    print("|---|", *("---|" for _ in budgets), "---|---|---|")
    for way, known in runs.items():
        means = [np.mean([at(known[k], b) for k in keys]) for b in budgets]
        reach = [next((s / BUDGET for s, r in known[k]["found"] if goal and r <= goal[k[0]]), np.inf) for k in keys]
        begun = np.mean([len(known[k]["found"]) for k in keys])
        cells = f"{np.median(reach):.2f} | {begun:.0f} | {against(runs, way, keys, by_budget)} |"
        print(f"| {way} |", *(f"{m:.3f} |" for m in means), cells)
    print("\n| way |", *(f"after {n} trials | trainings |" for n in counts), "against the engine alone |")
    print("|---|", *("---|---|" for _ in counts), "---|")
    for way, known in runs.items():
        means = [np.mean([after(known[k], n) for k in keys], axis=0) for n in counts]
        print(f"| {way} |", *(f"{m:.3f} | {s:.1f} |" for s, m in means), f"{against(runs, way, keys, by_trials)} |")
    if args.by_problem:
        print(
            "\nAgainst the engine alone, with standard errors, by budget / by trials\n\n| problem |",
            *(f"{way} |" for way in runs),
        )
        for t in tasks:
            own = [k for k in keys if k[0] == t]
            cells = []
            for way in runs:
                parts = [
                    [score(runs["engine"][k]) - score(runs[way][k]) for k in own] for score in (by_budget, by_trials)
                ]
                cells.append(" / ".join(f"{np.mean(d):+.3f} +- {np.std(d) / np.sqrt(len(d)):.3f}" for d in parts))
            print(f"| {t} |", *(f"{c} |" for c in cells))


def by_budget(run):
    """The regret that counts in the first table."""
    return at(run, BUDGET)


def by_trials(run):
    """The regret that counts in the second table."""
    return after(run, int(BUDGET))[1]


def against(runs, way, keys, score):
    """The mean gain on the engine alone, with its 90 % bootstrap interval over problems."""
    gains = [
        np.mean([score(runs["engine"][k]) - score(runs[way][k]) for k in keys if k[0] == t])
        for t in sorted({k[0] for k in keys})
    ]
    low, high = np.percentile(np.random.default_rng(0).choice(gains, (4000, len(gains))).mean(1), [5, 95])
    return f"{np.mean(gains):+.3f} [{low:+.3f}, {high:+.3f}]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, default=os.environ.get("TUNESMITH_BENCH"), help="the problems' folder")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="search in one way; runs that are in the file already are skipped")
    command.add_argument("--way", choices=list(WAYS), required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--reports", type=int, default=16, help="of a trial, at most")
    command.set_defaults(call=run)
    command = commands.add_parser("compare", help="tables of a file's ways")
    command.add_argument("file", type=Path)
    command.add_argument("--by-problem", action="store_true")
    command.set_defaults(call=compare)
    args = parser.parse_args()
    args.bench = None if args.bench is None else Path(args.bench)
    args.call(args)


if __name__ == "__main__":
    main()
