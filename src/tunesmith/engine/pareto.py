"""Several objectives: the Pareto front, the volume it dominates, and the log of the expected gain in that volume.

Losses are rows (n, objectives), lower is better; everything here works for two and three objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tunesmith.engine.acquire import Taken, log_h, maximise
from tunesmith.engine.encoding import Array, Cube, Index, Mask, Rng
from tunesmith.engine.feasible import Limits
from tunesmith.engine.gp import Posterior, Prior, explain
from tunesmith.engine.warp import half_rank

_PRIOR = Prior(trend=0.3)  # as of the smooth model for one objective
_STARTS = 5  # points of the front that the search for the next point begins at
_MODEL_ON = 150  # trials that the models learn from
MOST = 3  # objectives whose dominated volume is cut into boxes; the number of boxes grows as front ** (objectives - 1)


def nondominated(losses: Array) -> Mask:
    """Which rows no other row dominates (of equal rows the first), shape (n,)."""
    better = (losses[:, None] <= losses[None]).all(2)
    strictly = better & (losses[:, None] < losses[None]).any(2)
    earlier = np.triu(better & better.T, 1)
    return np.asarray(~(strictly | earlier).any(0))


def boxes(front: Array, reference: Array) -> tuple[Array, Index, Index]:
    """What `front` leaves undominated below `reference`, as boxes that do not overlap.

    Returns `edges` (front + 2, objectives), each column ascending from -inf to the reference, and for each box the row
    of its lower and of its upper edge in each objective: two arrays (boxes, objectives).
    """
    front = front[(front < reference).all(1)]
    edges = np.vstack([np.full(front.shape[1], -np.inf), np.sort(front, 0), reference])
    rank = 1 + np.argsort(np.argsort(front, 0, kind="stable"), 0, kind="stable")
    lower, upper = _boxes(rank.astype(np.int64), len(front) + 1)
    return edges, lower, upper


def _boxes(rank: Index, top: int) -> tuple[Index, Index]:
    """Boxes in ranks: between neighbours in the last objective the others' front does not change, so it recurs."""
    if rank.shape[1] == 1:
        end = int(rank.min()) if len(rank) else top
        return np.zeros((1, 1), np.int64), np.full((1, 1), end)
    lower, upper = [], []
    levels = [0, *np.sort(rank[:, -1]).tolist(), top]
    for low, high in pairwise(levels):
        inner = _boxes(rank[rank[:, -1] <= low, :-1], top)
        lower.append(np.insert(inner[0], rank.shape[1] - 1, low, axis=1))
        upper.append(np.insert(inner[1], rank.shape[1] - 1, high, axis=1))
    return np.vstack(lower), np.vstack(upper)


def hypervolume(front: Array, reference: Array) -> float:
    """The volume that `front` dominates below `reference`."""
    front = front[(front < reference).all(1)]
    if not len(front):
        return 0.0
    edges, lower, upper = boxes(front, reference)
    edges[0] = front.min(0)
    free = (edges[upper, np.arange(front.shape[1])] - edges[lower, np.arange(front.shape[1])]).prod(1).sum()
    return float((reference - front.min(0)).prod() - free)


def log_volume_gain(posteriors: Sequence[Posterior], front: Array, reference: Array, points: Array) -> Array:
    """Log of the expected gain in dominated volume at points (m, columns), one independent process per objective.

    A box between l and u gains the product over the objectives of E[(u - y)+] - E[(l - y)+] (Yang et al. 2019, theorem
    3.1, in the boxes' form); summed in logarithms (Ament et al. 2023, section 4.3), so that it never vanishes.
    """
    edges, lower, upper = boxes(front, reference)
    total = np.zeros((len(lower), len(points)))
    for k, posterior in enumerate(posteriors):
        mean, variance = posterior.predict(points)
        sd = np.sqrt(variance)
        heights = np.full((len(edges), len(points)), -np.inf)
        heights[1:] = log_h((edges[1:, k, None] - mean) / sd) + np.log(sd)
        high, low = heights[upper[:, k]], heights[lower[:, k]]
        with np.errstate(divide="ignore", invalid="ignore"):  # two equal edges: an empty box
            total += high + np.log1p(-np.exp(low - high))
    total = np.where(np.isnan(total), -np.inf, total)
    most = total.max(0)
    return np.asarray(most + np.log(np.exp(total - most).sum(0)))


def propose(
    cube: Cube,
    known: Array,
    losses: Array,
    waiting: Array,
    *,
    allowed: Mask,
    limits: Limits,
    avoid: Taken,
    fixed: Mapping[str, Any],
    rng: Rng,
) -> tuple[Array, list[tuple[Posterior, ...]], Array]:
    """The point (columns,) where the dominated volume is expected to grow most, each objective's processes, and its losses.

    `known` (n, columns) and `losses` (n, objectives) are what the models learn from, `waiting` the points under way, taken
    to end as the models expect. The front is that of the models' means at the `allowed` ones (n,), so that a lucky run does
    not hide what is better; the reference lies a tenth beyond the worst mean, so that the front is worth extending at its
    ends. Where each objective has several processes, as of few trials, their log gains are averaged. The gain is weighted by the
    chance to stay within the `limits`.
    """
    rows = thinned(losses, allowed, rng)
    known, losses, allowed = known[rows], losses[rows], allowed[rows]
    processes = [explain(known, half_rank(column), cube.group, prior=_PRIOR) for column in losses.T]
    if len(waiting):
        processes = [tuple(p.believing(waiting) for p in objective) for objective in processes]
    at, counts = np.vstack([known, waiting]), np.r_[allowed, np.ones(len(waiting), bool)]
    means = np.array([[p.mean(at) for p in objective] for objective in processes]).transpose(1, 2, 0)
    joint = list(zip(*processes, strict=True))
    references = means.max(1) + 0.1 * np.ptp(means, axis=1)
    fronts = [m[counts][nondominated(m[counts])] for m in means]

    def gain(points: Array) -> Array:
        gains = [log_volume_gain(j, f, r, points) for j, f, r in zip(joint, fronts, references, strict=True)]
        return np.asarray(np.mean(gains, axis=0) + limits.log_weight(points))

    best = nondominated(means.mean(0)[counts])
    starts = rng.permutation(at[counts][best])[:_STARTS]
    return maximise(cube, gain, starts, avoid=avoid, fixed=fixed, rng=rng), processes, losses


def thinned(losses: Array, allowed: Mask, rng: Rng) -> Index:
    """Indices of at most `_MODEL_ON` rows: the front of the `allowed` ones, and others at random."""
    if len(losses) <= _MODEL_ON:
        return np.arange(len(losses))
    able = np.flatnonzero(allowed)
    front = able[nondominated(losses[able])][: _MODEL_ON // 2]
    rest = rng.choice(np.setdiff1d(np.arange(len(losses)), front), _MODEL_ON - len(front), replace=False)
    return np.sort(np.r_[front, rest])
