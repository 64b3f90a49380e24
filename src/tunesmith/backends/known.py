"""What a backend knows of a study's space, and how it draws the values that no model proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution

from tunesmith.dimensions import dimension
from tunesmith.engine import draw
from tunesmith.trial import Space, Trial


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
