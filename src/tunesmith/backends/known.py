"""What a backend knows of a study's space, and how it draws the values that no model proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from tunesmith.dimensions import dimension
from tunesmith.engine import draw
from tunesmith.trial import Space, Trial, contains, fitted


def seen_space(trials: Iterable[Trial]) -> Space:
    """The union of the spaces of earlier trials; where a range was changed, its newest form."""
    space: dict[str, BaseDistribution] = {}
    for trial in trials:
        space.update(trial.distributions)
    return space


def drawn(seed: int, number: int) -> Callable[[str, BaseDistribution], Any]:
    """Values at random, one for each name, keyed by seed and trial."""
    return partial(_draw, seed=seed, number=number)


def _draw(name: str, distribution: BaseDistribution, *, seed: int, number: int) -> Any:
    return draw(dimension(distribution), seed=seed, number=number, name=name)


def nearest(distribution: BaseDistribution, given: Any) -> Any:
    """What a service gave as a value of the distribution, None for what is none.

    JSON makes 1 of 1.0, and logarithms move a bound by a hair: the nearest value is meant.
    """
    if contains(distribution, given):
        return fitted(distribution, given)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        return None
    value = min(max(given, distribution.low), distribution.high)
    if distribution.step is not None:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    value = min(value, distribution.high)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)
