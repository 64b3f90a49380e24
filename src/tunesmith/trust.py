"""Whether a study's best trial can be trusted: its margin to the others against the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.dimensions import dimensions
from tunesmith.engine.verdict import verdict
from tunesmith.errors import SpaceError
from tunesmith.trial import Trial, TrialState, signs

_SEEDS = ("seed", "data_seed")  # trials that differ in these alone are one configuration
_SURE = 0.8
_FEW = 3


@dataclass(frozen=True)
class Trust:
    """How far the best trial can be trusted, in the objective's units.

    `noise`: the standard deviation of one configuration's objective, measured on `repeats` (0: estimated by the model).
    `chance`: how likely the `best` (a trial's number) is truly the best of those tried; `rivals`: other trials and how
    likely they are. `again`: what training it again would come to, `low` to `high` with 90 %.
    """

    best: int
    chance: float
    rivals: tuple[tuple[int, float], ...]
    noise: float
    repeats: int
    again: float
    low: float
    high: float

    @property
    def sentences(self) -> tuple[str, ...]:
        """The same in words: what it would come to again, how it compares, and what to do about it."""
        by = f"measured on {self.repeats + 1} repeats or more" if self.repeats else "as the model sees it"
        again = (
            f"trained again it would come to {self.again:.5g} ({self.low:.5g} to {self.high:.5g}); "
            f"noise {self.noise:.2g}, {by}"
        )
        if self.chance >= _SURE:
            return again, f"it stands out: {_percent(self.chance)} likely the best of those tried"
        number, chance = self.rivals[0]
        more = "more likely" if chance > self.chance else "next"
        doubt = f"{_percent(self.chance)} likely the best of those tried; {more}: trial {number} ({_percent(chance)})"
        if self.repeats:
            return again, doubt
        return again, doubt, "to tell them apart, train them again with other seeds"


def _percent(chance: float) -> str:
    return "less than 1 %" if chance < 0.005 else f"{100 * chance:.0f} %"  # noqa: PLR2004


def judged(trials: Sequence[Trial], directions: Sequence[str]) -> list[tuple[Trial, float]]:
    """The trials that one objective is judged from, completed within their constraints, each with its loss."""
    sign = signs(directions)[0]
    return [
        (t, sign * t.value)
        for t in trials
        if t.state is TrialState.COMPLETE and t.params and t.feasible and t.value is not None and math.isfinite(t.value)
    ]


def trust(trials: Sequence[Trial], directions: Sequence[str], *, seed: int) -> Trust | None:
    """Judge the best trial; None with several objectives, and while too few trials have completed."""
    if len(directions) != 1:
        return None
    done = judged(trials, directions)
    space = {n: d for t, _ in done for n, d in t.distributions.items() if n not in _SEEDS}
    if not space:
        return None
    try:
        known = dimensions(space)
    except SpaceError:  # a distribution that the engine does not model
        return None
    found = verdict(known, [t.params for t, _ in done], [loss for _, loss in done], seed=seed)
    if found is None:
        return None
    best = min(done, key=lambda one: (one[1], one[0].number))[0]
    sign = signs(directions)[0]
    again, low, high = (sign * v for v in found.again)
    rivals = tuple((done[k][0].number, chance) for k, chance in found.rivals[:_FEW])
    return Trust(best.number, found.chance, rivals, found.noise, found.repeats, again, min(low, high), max(low, high))
