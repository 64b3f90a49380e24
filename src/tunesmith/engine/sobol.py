"""Scrambled Sobol points."""

from __future__ import annotations

import numpy as np

from tunesmith.engine.encoding import Array, Rng


def sobol(count: int, dimensions: int, rng: Rng) -> Array:
    """The first `count` points, shape (count, dimensions), in [0, 1), scrambled at random (Owen 1998)."""
    # takes longer to load than the rest of the engine, which workers load too, and they draw no points
    from scipy.stats import qmc  # noqa: PLC0415

    return np.asarray(qmc.Sobol(dimensions, scramble=True, rng=rng).random(count))
