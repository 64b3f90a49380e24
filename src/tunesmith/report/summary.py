"""What is worth saying about a search: how far it is, its best trials, its failures, the parameters that tell most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from tunesmith.trial import Trial, TrialState

_BLOCKS = "▁▂▃▄▅▆▇█"
_ENOUGH = 10  # completed trials from which parameters are ranked by what they explain
_GROUPS = 4
_IN_LINE = 30  # trials in a sparkline


@dataclass(frozen=True)
class Standing:
    """A search at one moment.

    `names` holds the parameters, those first that tell most. Times are Unix times; `since` says when each running
    trial began in this process.
    """

    name: str
    directions: tuple[str, ...]
    trials: tuple[Trial, ...] = ()
    best: tuple[Trial, ...] = ()
    names: tuple[str, ...] = ()
    n_trials: int | None = None
    began: float = 0.0
    done_before: int = 0
    since: Mapping[int, float] = field(default_factory=dict)

    @cached_property
    def by_state(self) -> Mapping[TrialState, Sequence[Trial]]:
        """The trials of each state; found once, since there may be thousands."""
        found: dict[TrialState, list[Trial]] = {state: [] for state in TrialState}
        for t in self.trials:
            found[t.state].append(t)
        return found

    @property
    def done(self) -> int:
        """How many trials have finished, whatever their end."""
        return sum(len(trials) for state, trials in self.by_state.items() if state.finished)

    @property
    def running(self) -> Sequence[Trial]:
        """The trials that run now."""
        return self.by_state[TrialState.RUNNING]

    @property
    def failed(self) -> str:
        """How many trials failed, by reason; empty when none did."""
        return failures(self.by_state[TrialState.FAILED])

    @property
    def curve(self) -> str:
        """The newest objectives as a line of block characters."""
        return sparkline([t.values[0] for t in self.by_state[TrialState.COMPLETE][-_IN_LINE:] if t.values], _IN_LINE)

    def seconds_left(self, now: float) -> float | None:
        """The time that the remaining trials take if they go on like those of this run; None when that is unknown."""
        if self.n_trials is None or self.done >= self.n_trials:
            return None
        part = sum(share(t) or 0.0 for t in self.running)
        work = self.done - self.done_before + part
        if work <= 0 or now <= self.began:
            return None
        return (now - self.began) / work * max(self.n_trials - self.done - part, 0.0)

    def headline(self, now: float) -> str:
        """How far the search is, its best objective, its failures and the time left, in one line."""
        total = "" if self.n_trials is None else f"/{self.n_trials}"
        parts = [f"{self.done}{total} done"]
        if self.best:
            parts.append(best_text(self.best))
        if self.failed:
            parts.append(self.failed)
        left = self.seconds_left(now)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return " | ".join(parts)


def share(trial: Trial) -> float | None:
    """The part of its training that a trial has done, None when it is not known."""
    return trial.reports[-1].share if trial.reports else None


def newest(trial: Trial) -> tuple[float, ...] | None:
    """The trial's values; for one without, those it reported last."""
    if trial.values is not None:
        return trial.values
    return trial.reports[-1].values if trial.reports else None


def best_text(best: Sequence[Trial]) -> str:
    """The best trial with its objective, or how many make up the Pareto set."""
    if len(best) == 1 or len(best[0].values or ()) == 1:
        return f"best {numbers(best[0].values)} (trial {best[0].number})"
    return f"{len(best)} trials in the Pareto set"


def failures(trials: Sequence[Trial]) -> str:
    """How many trials failed, with the first word of each reason counted; empty when none did."""
    counts = Counter(reason_word(t) for t in trials if t.state is TrialState.FAILED)
    return f"{counts.total()} failed ({', '.join(f'{n} {word}' for word, n in counts.most_common())})" if counts else ""


def reason_word(trial: Trial) -> str:
    """The word that a trial's reason begins with."""
    return (trial.reason or "unknown").partition(":")[0].strip() or "unknown"


def reason_text(trial: Trial) -> str:
    """A trial's reason without a first word that repeats its state."""
    return plain((trial.reason or "").removeprefix(f"{trial.state.value.lower()}: "))


def why_text(trial: Trial) -> str:
    """Why the trial's parameters were suggested, in words; empty where the backend does not say."""
    return plain(str(trial.why.get("text", "")))


def telling_parameters(trials: Sequence[Trial]) -> list[str]:
    """The names of the parameters, those first that explain most of the (first) objective; constant ones come last.

    A parameter's values are cut into four groups of equal size (a categorical one into its choices); the measure is
    the share of the variance of the objective's ranks that lies between the groups, corrected for their number. With
    fewer than ten completed trials the order is that of the space.
    """
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    varying = {name: len({repr(t.params[name]) for t in trials if name in t.params}) > 1 for name in names}
    done = [t for t in trials if t.values and math.isfinite(t.values[0])]
    score = {name: _explained(name, done) if len(done) >= _ENOUGH else 0.0 for name in names}
    return sorted(names, key=lambda name: (not varying[name], -score[name]))


def _explained(name: str, done: Sequence[Trial]) -> float:
    having = [t for t in done if name in t.params]
    if len(having) < _ENOUGH:
        return 0.0
    values = [t.params[name] for t in having]
    ranks = _ranks([t.values[0] for t in having if t.values])
    if all(is_number(v) for v in values) and len(set(values)) > _GROUPS:
        group = np.minimum((_ranks(values) / len(values) * _GROUPS).astype(int), _GROUPS - 1)
    else:
        known = {key: k for k, key in enumerate(dict.fromkeys(map(repr, values)))}
        group = np.array([known[repr(v)] for v in values])
    within = sum(float(((ranks[group == g] - ranks[group == g].mean()) ** 2).sum()) for g in set(group.tolist()))
    total = float(((ranks - ranks.mean()) ** 2).sum())
    free, groups = len(having), len(set(group.tolist()))
    if total == 0 or free <= groups:
        return 0.0
    return 1.0 - within / (free - groups) * (free - 1) / total


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks from 0; equal values share their mean rank."""
    _, place, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: np.ndarray[Any, np.dtype[np.float64]] = (ends - (counts + 1) / 2)[place.reshape(-1)]
    return mean


def is_number(value: Any) -> bool:
    """Whether a parameter's value has a place on a numeric axis."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def sparkline(values: Sequence[float], width: int = _IN_LINE) -> str:
    """The last values as a line of block characters; outliers are cut so that the rest stays readable."""
    shown = [v for v in values if math.isfinite(v)][-width:]
    if not shown:
        return ""
    first, middle, third = np.quantile(shown, [0.25, 0.5, 0.75])
    reach = 3 * float(third - first) or math.inf
    low, high = max(min(shown), middle - reach), min(max(shown), middle + reach)
    span = high - low
    places = [min(max((v - low) / span, 0.0), 1.0) if span else 0.0 for v in shown]
    return "".join(_BLOCKS[int(place * (len(_BLOCKS) - 1))] for place in places)


def duration(seconds: float) -> str:
    """A duration in the unit that fits."""
    if seconds < 100:  # noqa: PLR2004
        return f"{seconds:.0f} s"
    if seconds < 6000:  # noqa: PLR2004
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def number(value: Any) -> str:
    """A value in five significant digits."""
    return f"{value:.5g}" if isinstance(value, float) else plain(str(value))


def numbers(values: Sequence[float] | None) -> str:
    """Values in five significant digits, joined."""
    return ", ".join(f"{v:.5g}" for v in values or ())


def plain(text: str) -> str:
    """Text in one line without control characters: nothing in it can move the cursor or colour the rest."""
    return "".join(c if c.isprintable() else " " for c in text)
