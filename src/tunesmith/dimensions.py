"""Optuna's distributions as the engine's dimensions."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.engine import Choice, Dimension, Number
from tunesmith.errors import SpaceError
from tunesmith.trial import as_tuple


def dimension(distribution: BaseDistribution) -> Dimension:
    """One distribution as the engine knows it. Raises SpaceError for a kind that Optuna does not have."""
    if isinstance(distribution, CategoricalDistribution):
        return Choice(as_tuple(distribution.choices))
    if isinstance(distribution, FloatDistribution | IntDistribution):
        whole = isinstance(distribution, IntDistribution)
        return Number(distribution.low, distribution.high, distribution.log, distribution.step, whole)
    raise SpaceError(f"the engine knows Optuna's float, int and categorical distributions, got {distribution!r}")


def dimensions(space: Mapping[str, BaseDistribution]) -> dict[str, Dimension]:
    """A space as the engine knows it."""
    return {name: dimension(distribution) for name, distribution in space.items()}
