"""When a finite space has been tried to its last point, and that the search then ends."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import tunesmith
from tunesmith.coverage import Coverage
from tunesmith.trial import Trial, TrialState

AB = CategoricalDistribution(["a", "b"])
TWO = IntDistribution(1, 2)


def trial(state=TrialState.COMPLETE, **asked):
    return Trial(0, state, {n: v for n, (v, _) in asked.items()}, {n: d for n, (_, d) in asked.items()})


def test_a_grid_is_covered_by_its_last_point():
    trials = [trial(x=(x, AB), y=(y, TWO)) for x in "ab" for y in (1, 2)]
    assert Coverage(trials[:3]).points is None
    assert Coverage(trials).points == 4


def test_a_conditional_space_is_a_tree():
    trials = [trial(x=("a", AB), y=(y, TWO)) for y in (1, 2)]
    assert Coverage(trials).points is None
    assert Coverage([*trials, trial(x=("b", AB))]).points == 3


@pytest.mark.parametrize(
    "trials",
    [
        [trial(x=(0.5, FloatDistribution(0, 1)))],
        [trial(x=("a", AB)), trial(y=(1, TWO)), trial(x=("b", AB)), trial(y=(2, TWO))],  # by the trial's number
        [trial(x=("a", AB)), trial(x=("b", AB)), trial(x=("a", AB), y=(1, TWO))],
        [trial()],
    ],
)
def test_what_has_no_last_point_is_never_covered(trials):
    assert Coverage(trials).points is None


def test_a_failed_trial_counts_but_may_have_asked_for_less_than_others():
    early = trial(TrialState.FAILED, x=("a", AB))
    assert Coverage([early, trial(x=("b", AB))]).points == 2
    rest = [trial(x=(x, AB), y=(1, TWO)) for x in "ab"]
    assert Coverage([early, *rest]).points is None
    assert Coverage([early, *rest, *(trial(x=(x, AB), y=(2, TWO)) for x in "ab")]).points == 4


@pytest.mark.parametrize("settings", [{}, {"backend": "optuna"}, {"workers": 2}])
def test_a_search_ends_when_every_point_has_been_tried_and_says_so(tmp_path, settings):
    messages = []

    class Watch:
        def on_message(self, study, text):
            messages.append(text)

    def objective(trial):
        return trial.suggest_int("depth", 1, 2) + len(trial.suggest_categorical("kind", ["a", "bc"]))

    study = tunesmith.search(
        objective, 200, directory=tmp_path, seed=0, progress=False, callbacks=[Watch()], **settings
    )
    tried = {tuple(t.params.items()) for t in study.trials}
    assert len(tried) == 4
    assert len(study.trials) < 200
    assert any("all 4 points of its space have been tried" in m for m in messages)
    assert study.info.settings["finished"]


def test_a_conditional_space_ends_too(tmp_path):
    def objective(trial):
        kind = trial.suggest_categorical("kind", ["a", "b"])
        return trial.suggest_int("depth", 1, 3) if kind == "a" else 0.5

    study = tunesmith.search(objective, 200, directory=tmp_path, backend="optuna", seed=0, progress=False)
    assert len({tuple(t.params.items()) for t in study.trials}) == 4
    assert len(study.trials) < 200


def test_the_engine_tries_no_point_twice(tmp_path):
    study = tunesmith.search(lambda trial: trial.suggest_int("x", 1, 9), 50, directory=tmp_path, seed=0, progress=False)
    assert sorted(t.params["x"] for t in study.trials) == list(range(1, 10))


def test_optunas_grid_ends_with_its_last_point(tmp_path):
    sampler = optuna.samplers.GridSampler({"x": [1, 2, 3]})
    study = tunesmith.search(
        lambda trial: trial.suggest_int("x", 1, 3),
        50,
        directory=tmp_path,
        backend="optuna",
        sampler=sampler,
        progress=False,
    )
    assert sorted(t.params["x"] for t in study.trials) == [1, 2, 3]


def test_the_engine_tries_every_point_of_a_conditional_finite_space_and_ends(tmp_path):
    def objective(trial):
        if trial.suggest_categorical("kind", ["plain", "layered"]) == "plain":
            return 1.0
        return float(trial.suggest_int("layers", 1, 3))

    study = tunesmith.search(objective, n_trials=40, directory=tmp_path, seed=3, progress=False)
    assert (
        sorted(map(str, (t.params for t in study.trials)))
        == [
            "{'kind': 'layered', 'layers': 1}",
            "{'kind': 'layered', 'layers': 2}",
            "{'kind': 'layered', 'layers': 3}",
            "{'kind': 'plain'}",
        ]
        or len(study.trials) == 5
    )  # "plain" may come twice, before it is known that there are layers
