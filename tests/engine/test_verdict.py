"""Whether the best stands out is a matter of its margin against the noise."""

import numpy as np
import pytest

from tunesmith.engine import Choice, Number
from tunesmith.engine.verdict import FEWEST, verdict

SPACE = {"x": Number(0.0, 1.0), "kind": Choice(("a", "b"))}


def tried(trials: int, noise: float, repeats: int = 0) -> tuple[list[dict], list[float], list[float]]:
    """Rows, noisy losses and true ones; the leading three again, `repeats` times each."""
    rng = np.random.default_rng(3)
    rows = [{"x": float(rng.random()), "kind": "ab"[k % 2]} for k in range(trials)]
    true = [10 + (r["x"] - 0.3) ** 2 + 0.3 * (r["kind"] == "b") for r in rows]
    losses = [v + noise * rng.normal() for v in true]
    for k in np.argsort(losses)[:3].repeat(repeats):
        rows.append(rows[k])
        true.append(true[k])
        losses.append(true[k] + noise * rng.normal())
    return rows, losses, true


def test_too_few_trials_say_nothing() -> None:
    rows, losses, _ = tried(FEWEST, 0.0)
    assert verdict(SPACE, rows, losses, seed=0) is None


def test_a_best_far_ahead_stands_out_and_one_among_equals_does_not() -> None:
    rows, losses, _ = tried(30, 0.0)
    ahead = [v + 0.5 * (k != int(np.argmin(losses))) for k, v in enumerate(losses)]
    level = [10 + 0.01 * np.random.default_rng(0).normal() + 0 * v for v in losses]
    first, second = verdict(SPACE, rows, ahead, seed=0), verdict(SPACE, rows, level, seed=0)
    assert first is not None
    assert second is not None
    assert first.chance > 2 * second.chance


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_the_noise_is_found_and_what_another_run_comes_to_lies_in_the_interval(noise: float) -> None:
    rows, losses, true = tried(40, noise)
    found = verdict(SPACE, rows, losses, seed=0)
    assert found is not None
    assert noise / 2.5 < found.noise < 2.5 * noise, "from single runs no more than its size is known"
    assert found.again[1] < true[int(np.argmin(losses))] < found.again[2]
    assert found.again[0] > min(losses), "the best of noisy results is better than it will be again"


def test_repeats_measure_the_noise() -> None:
    rows, losses, _ = tried(25, 0.05, repeats=3)
    found = verdict(SPACE, rows, losses, seed=0)
    assert found is not None
    assert found.repeats == 9
    assert found.noise == pytest.approx(0.05, rel=0.5)
    ids = [k for k, _ in found.rivals]
    assert len({tuple(rows[k].items()) for k in ids}) == len(ids), "a configuration is compared once"


def test_repeats_that_came_to_exactly_the_same_measure_nothing() -> None:
    rows, losses, _ = tried(25, 0.0, repeats=3)
    found = verdict(SPACE, rows, losses, seed=0)
    assert found is not None
    assert found.repeats == 0


def test_chances_are_shares_and_the_same_trials_give_the_same_answer() -> None:
    rows, losses, _ = tried(30, 0.02)
    found = verdict(SPACE, rows, losses, seed=0)
    assert found is not None
    assert found == verdict(SPACE, rows, losses, seed=0)
    assert found.chance + sum(chance for _, chance in found.rivals) == pytest.approx(1.0)
    assert [c for _, c in found.rivals] == sorted((c for _, c in found.rivals), reverse=True)
