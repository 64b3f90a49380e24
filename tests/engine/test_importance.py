"""Importances say which parameters matter, and how sure that is."""

import numpy as np
import pytest

from tunesmith.engine import Choice, Number, importances

SPACE = {"a": Number(0.0, 1.0), "b": Number(1e-4, 1.0, log=True), "idle": Number(0, 9, whole=True)}


def rows(count: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {"a": rng.random(), "b": float(10 ** rng.uniform(-4, 0)), "idle": int(rng.integers(10))} for _ in range(count)
    ]


def unit(row: dict) -> float:
    return 1 + np.log10(row["b"]) / 4


def test_an_additive_function_has_the_shares_of_its_terms() -> None:
    seen = rows(40)
    found = importances(SPACE, seen, [r["a"] + 0.5 * unit(r) for r in seen])
    assert list(found) == ["a", "b", "idle"]
    assert found["a"].total == pytest.approx(0.8, abs=0.1)
    assert found["b"].main == pytest.approx(0.2, abs=0.1)
    assert found["idle"].high < 0.05


def test_an_interaction_shows_in_the_total_and_not_in_the_main_effect() -> None:
    seen = rows(60)
    found = importances(SPACE, seen, [(r["a"] - 0.5) * (unit(r) - 0.5) for r in seen])
    assert found["a"].total > 0.7
    assert found["a"].main < 0.3


def test_intervals_narrow_as_trials_come() -> None:
    few, many = (importances(SPACE, seen, [r["a"] + 0.5 * unit(r) for r in seen]) for seen in (rows(6), rows(60)))
    assert few["a"].high - few["a"].low > 2 * (many["a"].high - many["a"].low)


@pytest.mark.parametrize("seed", range(4))
def test_noise_alone_tells_nothing_of_any_parameter(seed: int) -> None:
    noise = np.random.default_rng(100 + seed).normal(size=40)
    found = importances(SPACE, rows(40, seed), noise.tolist())
    first = next(iter(found.values()))
    assert first.low < 0.2
    assert first.high > 0.8


def test_the_same_trials_give_the_same_importances() -> None:
    seen = rows(12)
    losses = [r["a"] for r in seen]
    assert importances(SPACE, seen, losses) == importances(SPACE, seen, losses)


def test_a_choice_that_decides_is_found_also_among_failures_and_in_long_histories() -> None:
    space = {**SPACE, "kind": Choice(("x", "y", "z"))}
    rng = np.random.default_rng(1)
    seen = [{**r, "kind": "xyz"[rng.integers(3)]} for r in rows(250)]
    losses = [float("nan") if r["kind"] == "z" else r["a"] * 0.1 for r in seen]
    assert next(iter(importances(space, seen, losses))) == "kind"
