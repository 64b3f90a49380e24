"""Studies made of trials alone, for what only reads them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from optuna.distributions import CategoricalDistribution, FloatDistribution

from tunesmith.record import StudyInfo
from tunesmith.study import Study
from tunesmith.trial import Report, Trial, TrialState

EVIL = [
    "<script>document.title = 'owned'</script>",
    '"><img src=/leak1 onerror="document.title = \'owned\'">',
    "</script><script src=/leak2></script>",
    "</style><style>@import url(/leak3);</style>",
    "<!--<script>",
    "<svg onload=document.title='owned'>",
    "javascript:document.title='owned'",
    "&lt;b&gt; \u2028 \u2029 ]]> ${document.title='owned'} `",
    "__proto__",
    "\ud800 \x00 \x1b[31m",
]


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


def study(trials, name="s", directions=("minimize",), best=None, **settings):
    """A study that is not in a file; `best` instead of those that are."""
    info = StudyInfo(name, tuple(directions), seed=0, created=0.0, version=1, settings=settings)
    record = SimpleNamespace(trials=lambda: tuple(trials), info=info, path=Path("nowhere/study.sqlite"))
    return Study(record) if best is None else WithBest(record, tuple(best))


class WithBest(Study):
    def __init__(self, record, best):
        super().__init__(record)
        self._best = best

    @property
    def best_trials(self):
        return self._best


def hostile():
    failed = [
        trial(k, TrialState.FAILED, reason=f"error: {e}", detail=e, params={e: e, "n": k}, distributions={})
        for k, e in enumerate(EVIL)
    ]
    done = [trial(k + 20, params={e: e}, distributions={}, checkpoint=e) for k, e in enumerate(EVIL)]
    pruned = [trial(k + 40, TrialState.PRUNED, reason=e) for k, e in enumerate(EVIL)]
    return study([*failed, *done, *pruned], name=EVIL[0])


def modelled(n=40):
    """A study in which x matters and y does not."""
    space = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-4, 1, log=True)}
    trials = []
    for k in range(n):
        params = {"x": (k * 0.618) % 1, "y": 10 ** (-4 * ((k * 0.414) % 1))}
        trials.append(trial(k, params=params, distributions=space, values=((params["x"] - 0.3) ** 2,)))
    return study(trials)
