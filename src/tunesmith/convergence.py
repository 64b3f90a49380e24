"""When a search is over because nothing is left to gain."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.dimensions import dimensions
from tunesmith.engine.converged import remaining
from tunesmith.trial import Trial, TrialState, signs


def convergence(trials: Sequence[Trial], directions: Sequence[str], *, seed: int) -> str | None:
    """The sentence that says why the search is over; None while something may be left to gain.

    For one objective, and judged from the completed trials that keep their constraints, whichever backend proposed them.
    """
    done = [t for t in trials if t.state is TrialState.COMPLETE and t.value is not None and t.params and t.feasible]
    if not done:
        return None
    space = {name: d for t in done for name, d in t.distributions.items()}
    sign = signs(directions)[0]
    losses = [sign * (t.value or 0.0) for t in done]
    left = remaining(dimensions(space), [t.params for t in done], losses, seed=seed)
    if left is None or not left.converged:
        return None
    return (
        f"converged: the best of further trials would gain {left.median:.3g}, at most {left.high:.3g} (90 %), no more than "
        f"the noise of {left.noise:.3g}"
    )
