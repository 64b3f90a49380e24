"""The models that are asked together: more of them while trials are few."""

import numpy as np

from tunesmith.engine.ensemble import Ensemble, ensemble


def of(count: int) -> Ensemble:
    points = np.random.default_rng(0).random((count, 2))
    y = (points[:, 0] - 0.3) ** 2
    return ensemble(points, y, np.arange(2), allowed=np.ones(count, bool), spread=np.zeros(count))


def test_few_trials_are_explained_in_several_ways() -> None:
    assert len({m.inverse_lengths.tobytes() for m in of(6).members}) > 4
    assert len(of(30).members) == 2
