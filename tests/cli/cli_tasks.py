"""What the studies of these tests search."""

from __future__ import annotations


def objective(trial):
    x = trial.suggest_float("x", 1e-3, 10, log=True)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    trial.report(x, 1, share=0.5)
    if trial.number == 2:
        raise ValueError("no such luck")
    if trial.number == 3:
        return float("nan")
    return x + (kind == "a")
