"""Studies made of trials alone, for what only reads them."""

from __future__ import annotations

from types import SimpleNamespace

from optuna.distributions import CategoricalDistribution, FloatDistribution

from tunesmith.trial import Report, Trial, TrialState


def trial(number, state=TrialState.COMPLETE, **changes):
    settings = {
        "params": {"lr": 10.0 ** -(number % 5) * (1 + number / 7), "kind": "ab"[number % 2]},
        "distributions": {
            "lr": FloatDistribution(1e-5, 99, log=True),
            "kind": CategoricalDistribution(("a", "b")),
        },
        "reports": tuple(Report(s, (1.0 / (s + number + 1),), share=s / 4) for s in range(1, 5)),
        "values": (1.0 / (number + 1),) if state is TrialState.COMPLETE else None,
        "started": 1.0,
        "ended": 2.0,
        **changes,
    }
    return Trial(number, state, **settings)


def study(trials, name="s", directions=("minimize",), best=None):
    done = [t for t in trials if t.values]
    chosen = tuple(sorted(done, key=lambda t: t.values)[:1]) if best is None else tuple(best)
    return SimpleNamespace(trials=tuple(trials), name=name, directions=directions, best_trials=chosen)
