"""Why a point is suggested: what the model expects there, in the losses' own units, and which trials it knows nearby."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tunesmith.engine.encoding import Array
from tunesmith.engine.warp import unwarp

_NEAREST = 3
_KNOWN = 0.5  # a standard deviation (of warped losses, which have 1) below which the model knows the place
_NINETY = 1.645


def account(
    predicted: Sequence[tuple[Array, Array]],
    losses: Sequence[Array],
    known: Array,
    numbers: Sequence[int],
    point: Array,
    inverse_lengths: Array,
) -> dict[str, Any]:
    """An account of `point` (columns,), JSON.

    `predicted` are mean and variance there of each objective's half-rank-warped loss, `losses` those that the warping was
    made from; `known` (n, columns) are the trials called `numbers`, near where few lengthscales lie between. Gives
    `expected`, per objective [loss, and its 90 % interval]; `mode`: "explore" where the model knows little, "exploit"
    where it expects the gain from what it knows; `nearest`, the trials that it knows best there.
    """
    expected = []
    for (mean, variance), y in zip(predicted, losses, strict=False):
        reach = _NINETY * float(variance[0]) ** 0.5
        at = unwarp(np.array([0.0, -reach, reach]) + float(mean[0]), np.asarray(y))
        expected.append([float(f"{v:.6g}") for v in at])
    unsure = max((float(v[0]) for _, v in predicted), default=1.0) > _KNOWN**2
    distance = (((known - point) * inverse_lengths) ** 2).sum(1)
    nearest = [int(numbers[k]) for k in np.argsort(distance, kind="stable")[:_NEAREST]]
    why = {"how": "model", "mode": "explore" if unsure else "exploit", "nearest": nearest, "trials": len(known)}
    return {**why, "expected": expected} if expected else why
