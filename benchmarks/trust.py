"""Whether what a study says of its best holds: intervals of further runs, and the noise, on searches whose truth is known.

    python benchmarks/trust.py [searches]

Prints, for each noise: how much of what the best came to again its 90 % interval held, the noise found as a share of the
true one (median), how often the best trial was the best in truth, and how likely it was said to be (mean).
"""

from __future__ import annotations

import math
import sys

import numpy as np

from tunesmith.engine import Number, Observation, suggest
from tunesmith.engine.verdict import verdict

SPACE = {f"x{k}": Number(0.0, 1.0) for k in range(3)}
TRIALS, AGAIN = 30, 20


def truth(params, centre):
    return (
        10 + sum((v - c) ** 2 for v, c in zip(params.values(), centre, strict=True)) + 0.05 * math.sin(9 * params["x0"])
    )


def one(seed, noise):
    """A search of the engine's: whether the intervals held, the noise found, whether the best was, and the chance said."""
    rng = np.random.default_rng(seed)
    centre, seen = rng.random(len(SPACE)), []
    for number in range(TRIALS):
        params = suggest(SPACE, seen, [], seed=seed, number=number).params
        seen.append(Observation(params, (truth(params, centre) + noise * rng.normal(),)))
    rows, losses = [dict(o.params) for o in seen], [o.losses[0] for o in seen]
    found = verdict(SPACE, rows, losses, seed=seed)
    true = [truth(row, centre) for row in rows]
    best = true[int(np.argmin(losses))]
    held = [found.again[1] <= best + noise * rng.normal() <= found.again[2] for _ in range(AGAIN)]
    return np.mean(held), found.noise / noise, best == min(true), found.chance


if __name__ == "__main__":
    searches = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    for noise in (0.01, 0.02, 0.05):
        held, share, was, said = np.array([one(seed, noise) for seed in range(searches)], float).T
        print(
            f"noise {noise}: interval held {held.mean():.0%}, noise found {np.median(share):.2f} of the true one, "
            f"the best was the best {was.mean():.0%}, said {said.mean():.0%}"
        )
