"""Whether the best can be trusted, in the objective's own units and in words."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

import tunesmith
from tunesmith.trial import Trial, TrialState
from tunesmith.trust import trust

SPACE = {"x": FloatDistribution(0, 1), "seed": CategoricalDistribution((0, 1, 2))}


def tried(noise=0.02, sign=1.0):
    rng = np.random.default_rng(1)
    points = [*rng.random(24).tolist(), *np.linspace(0.25, 0.35, 5).repeat(3).tolist()]
    return [
        Trial(k, TrialState.COMPLETE, params={"x": x, "seed": k % 3}, distributions=SPACE,
              values=(sign * (5 + (x - 0.3) ** 2 + noise * rng.normal()),))
        for k, x in enumerate(points)
    ]  # fmt: skip


def test_runs_that_differ_in_their_seed_alone_measure_the_noise():
    found = trust(tried(), ["minimize"], seed=0)
    assert found.repeats >= 5
    assert found.noise == pytest.approx(0.02, rel=0.5)
    assert found.low < found.again < found.high
    assert f"measured on {found.repeats + 1} repeats" in found.sentences[0]


def test_a_maximized_objective_is_judged_the_right_way_round():
    down, up = trust(tried(), ["minimize"], seed=0), trust(tried(sign=-1.0), ["maximize"], seed=0)
    assert (up.best, up.chance, up.rivals) == (down.best, down.chance, down.rivals)
    assert (up.low, up.again, up.high) == pytest.approx((-down.high, -down.again, -down.low))


def test_the_words_say_what_is_likelier_and_what_to_do():
    found = replace(trust(tried(), ["minimize"], seed=0), repeats=0, chance=0.2, rivals=((7, 0.3),))
    assert found.sentences[1:] == (
        "20 % likely the best of those tried; more likely: trial 7 (30 %)",
        "to tell them apart, train them again with other seeds",
    )
    assert replace(found, chance=0.9).sentences[1:] == ("it stands out: 90 % likely the best of those tried",)
    assert "next: trial 7 (less than 1 %)" in replace(found, rivals=((7, 0.001),)).sentences[1]


def test_a_study_says_it_and_a_stored_study_says_the_same(tmp_path):
    study = tunesmith.search(lambda t: t.suggest_float("x", 0, 1), 12, directory=tmp_path, seed=0, progress=False)
    assert study.trust().best == study.best_trial.number
    assert tunesmith.load_study(tmp_path).trust() == study.trust()


def test_several_objectives_too_few_trials_and_no_parameters_say_nothing():
    assert trust(tried(), ["minimize", "maximize"], seed=0) is None
    assert trust(tried()[:5], ["minimize"], seed=0) is None
    assert trust([replace(t, params={}, distributions={}) for t in tried()], ["minimize"], seed=0) is None


def test_failed_infinite_and_infeasible_trials_do_not_count():
    trials = tried()
    worse = [replace(t, number=t.number + 100, values=(-99.0,), state=TrialState.PRUNED) for t in trials[:5]]
    worse += [replace(t, number=t.number + 200, values=(float("-inf"),)) for t in trials[:5]]
    assert trust([*trials, *worse], ["minimize"], seed=0) == trust(trials, ["minimize"], seed=0)
