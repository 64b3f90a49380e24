"""A search as a section of a model card, and its best result as the card's metadata (`model-index`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.report.summary import failures, number, numbers, plain
from tunesmith.study import Study
from tunesmith.trial import Trial

HEADING = "## Hyperparameter search"
TAGS = ("hyperparameter-search", "tunesmith")


def section(study: Study, trial: Trial) -> str:
    """How a trial's hyperparameters were found, in Markdown: budget, what it came to, whether to trust it, its values."""
    lines = [HEADING, "", _how(study), "", _what(study, trial), ""]
    known = study.trust()
    if known is not None and known.best == trial.number:
        lines += [*(f"- {text}" for text in known.sentences[:2]), ""]
    try:
        shares = {name: f"{100 * i.total:.0f} %" for name, i in study.importances().items()}
    except TunesmithError:  # too few trials to say
        shares = {}
    head = ["hyperparameter", "value", "searched", *(["matters"] if shares else [])]
    lines += [_row(head), _row(["---"] * len(head))]
    for name, value in trial.params.items():
        cells = [f"`{plain(name)}`", number(value), _range(trial.distributions.get(name)), shares.get(name, "")]
        lines.append(_row([_inert(c) if k else c for k, c in enumerate(cells[: len(head)])]))
    return "\n".join(lines) + "\n"


def model_index(study: Study, trial: Trial, *, name: str, task: str, dataset: str) -> list[dict[str, Any]]:
    """The trial's evaluation as the Hub's `model-index`, for a model called `name`."""
    return [
        {
            "name": name,
            "results": [
                {
                    "task": {"type": task},
                    "dataset": {"name": dataset, "type": dataset},
                    "metrics": [
                        {"type": key, "name": key, "value": value} for key, value in metrics(study, trial).items()
                    ],
                }
            ],
        }
    ]


def metrics(study: Study, trial: Trial) -> Mapping[str, float]:
    """What was evaluated of a trial, without the times it took; the objectives where nothing else was."""
    found = {
        key.removeprefix("eval_"): value
        for key, value in trial.metrics.items()
        if math.isfinite(value) and not re.search(r"runtime|per_second|^epoch$|jit_compilation", key)
    }
    names = ["objective"] if len(study.directions) == 1 else [f"objective {k}" for k in range(len(study.directions))]
    return found or dict(zip(names, trial.values or (), strict=False))


def _how(study: Study) -> str:
    states: dict[str, int] = {}
    for t in study.trials:
        states[t.state.value.lower()] = states.get(t.state.value.lower(), 0) + 1
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    seconds = sum(t.duration or 0.0 for t in study.trials)
    why = failures(study.trials)
    return (
        f"Found by a search of {len(study.trials)} trials ({counts}{'; ' + _inert(why) if why else ''}; seed "
        f"{study.info.seed}) that took {seconds / 3600:.2g} hours in trials, with [tunesmith](https://pypi.org/project/tunesmith/)."
    )


def _what(study: Study, trial: Trial) -> str:
    goals = ", ".join(study.directions)
    return f"Trial {trial.number} came to {numbers(trial.values)} (objective: {goals})."


def _range(distribution: Any) -> str:
    if distribution is None:
        return ""
    if hasattr(distribution, "choices"):
        return ", ".join(map(str, distribution.choices))
    log = ", logarithmic" if distribution.log else ""
    return f"{number(distribution.low)} to {number(distribution.high)}{log}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(plain(c).replace('|', '&#124;') for c in cells)} |"


def _inert(text: str) -> str:
    """Text that is no markup in Markdown, and no HTML."""
    return re.sub(r"([\\`*_\[\]~!#])", r"\\\1", plain(text).replace("&", "&amp;").replace("<", "&lt;"))
