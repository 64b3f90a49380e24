"""When a search is over because nothing is left to gain."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.dimensions import dimensions
from tunesmith.engine.converged import remaining
from tunesmith.trial import Trial
from tunesmith.trust import judged


def convergence(trials: Sequence[Trial], directions: Sequence[str], *, seed: int) -> str | None:
    """The sentence that says why the search is over; None while something may be left to gain.

    For one objective, and judged from the completed trials that keep their constraints, whichever backend proposed them.
    """
    done = judged(trials, directions)
    if not done:
        return None
    space = {name: d for t, _ in done for name, d in t.distributions.items()}
    left = remaining(dimensions(space), [t.params for t, _ in done], [loss for _, loss in done], seed=seed)
    if left is None or not left.converged:
        return None
    return (
        f"converged: the best of further trials would gain {left.median:.3g}, at most {left.high:.3g} (90 %), no more than "
        f"half the noise of {left.noise:.3g}; the last {left.stood} trials gained nothing that matters"
    )
