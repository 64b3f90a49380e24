"""The backend "optuna": Optuna's samplers, pruners and storages behave as its users know them."""

from __future__ import annotations

import optuna
import pytest

import tunesmith
from tunesmith.errors import SettingError


def go(directory, n_trials=6, objective=None, **settings):
    def bowl(trial):
        x, y = trial.suggest_float("x", -1, 1), trial.suggest_int("y", 0, 5)
        return x * x + y

    return tunesmith.search(
        objective or bowl, n_trials, directory=directory, backend="optuna", progress=False, **{"seed": 2, **settings}
    )


def params(study):
    return [dict(t.params) for t in study.trials]


SAMPLERS = {
    "random": optuna.samplers.RandomSampler,
    "tpe": lambda: optuna.samplers.TPESampler(n_startup_trials=3),
    "tpe-multivariate": lambda: optuna.samplers.TPESampler(n_startup_trials=3, multivariate=True),
    "gp": lambda: optuna.samplers.GPSampler(n_startup_trials=3),
    "nsga2": lambda: optuna.samplers.NSGAIISampler(population_size=3),
    "qmc": lambda: optuna.samplers.QMCSampler(warn_independent_sampling=False),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumed_search_proposes_what_an_uninterrupted_one_does(tmp_path, name):
    whole = go(tmp_path / "whole", 7, sampler=SAMPLERS[name]())
    go(tmp_path / "parts", 4, sampler=SAMPLERS[name]())
    parts = go(tmp_path / "parts", 7, sampler=SAMPLERS[name](), resume=True)
    assert params(parts) == params(whole)
    assert len({tuple(p.items()) for p in params(whole)}) > 1


def test_the_samplers_own_seed_is_kept_to_whatever_the_studys(tmp_path):
    def run(name, seed, sampler):
        return params(go(tmp_path / name, 5, seed=seed, sampler=sampler))

    assert run("a", 1, optuna.samplers.TPESampler(seed=4)) == run("b", 2, optuna.samplers.TPESampler(seed=4))
    assert run("c", 1, optuna.samplers.TPESampler(seed=5)) != run("d", 1, optuna.samplers.TPESampler(seed=4))
    assert run("e", 1, optuna.samplers.TPESampler()) != run("f", 2, optuna.samplers.TPESampler())


def test_one_sampler_object_serves_several_searches(tmp_path):
    sampler = optuna.samplers.NSGAIISampler(population_size=3)
    assert params(go(tmp_path / "a", 8, sampler=sampler)) == params(go(tmp_path / "b", 8, sampler=sampler))


@pytest.mark.parametrize("parts", [[6], [2, 4, 6]])
def test_a_grid_is_walked_once_also_across_resumes(tmp_path, parts):
    grid = {"x": [-1.0, 0.0, 1.0], "y": [0, 5]}
    for n in parts:
        study = go(tmp_path, n, sampler=optuna.samplers.GridSampler(grid), resume=True if n != parts[0] else "auto")
    assert sorted((t.params["x"], t.params["y"]) for t in study.trials) == [
        (x, y) for x in grid["x"] for y in grid["y"]
    ]


def test_a_small_space_can_be_enumerated(tmp_path):
    study = go(tmp_path, 6, lambda t: t.suggest_int("n", 1, 6) + 0.0, sampler=optuna.samplers.BruteForceSampler(seed=0))
    assert sorted(t.params["n"] for t in study.trials) == [1, 2, 3, 4, 5, 6]


@pytest.mark.filterwarnings("ignore:`constraints_func`:FutureWarning")
@pytest.mark.parametrize("sampler", [optuna.samplers.TPESampler, optuna.samplers.NSGAIISampler])
def test_a_samplers_constraints_are_read_from_the_trials_attributes(tmp_path, sampler):
    seen = []

    def constraints(trial):
        seen.append(trial.user_attrs["excess"])
        return (trial.user_attrs["excess"],)

    def objective(trial):
        x = trial.suggest_float("x", -1, 1)
        trial.set_user_attr("excess", x)
        return -x

    go(tmp_path, 4, objective, sampler=sampler(constraints_func=constraints))
    study = go(tmp_path, 6, objective, sampler=sampler(constraints_func=constraints), resume=True)
    assert seen[-6:] == [t.params["x"] for t in study.trials]  # the first four again, for the sampler made anew


@pytest.mark.skipif(not hasattr(optuna.trial.FrozenTrial, "set_constraint"), reason="needs Optuna 5")
def test_constraints_set_on_the_trial_reach_optuna(tmp_path):
    def objective(trial):
        x = trial.suggest_float("x", -1, 1)
        trial.set_constraint("positive", -x)
        return x

    storage = optuna.storages.InMemoryStorage()
    study = go(tmp_path, 4, objective, storage=storage, study_name="s")
    other = optuna.load_study(study_name="s", storage=storage)
    assert [t.constraints for t in other.trials] == [{"positive": -t.params["x"]} for t in study.trials]


def test_an_enqueued_value_that_the_space_lacks_is_replaced(tmp_path):
    study = go(tmp_path, 2, enqueue=[{"x": 50.0, "y": 3}])
    assert study.trials[0].params["y"] == 3
    assert -1 <= study.trials[0].params["x"] <= 1


def test_a_users_own_sampler_is_asked(tmp_path):
    class Always(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            return {}

        def sample_independent(self, study, trial, param_name, param_distribution):
            return param_distribution.low

    assert params(go(tmp_path, 2, sampler=Always())) == [{"x": -1.0, "y": 0}] * 2


def test_the_study_is_also_written_to_an_optuna_storage(tmp_path):
    url = f"sqlite:///{tmp_path / 'optuna.db'}"
    study = go(tmp_path / "s", storage=url, study_name="shared")
    other = optuna.load_study(study_name="shared", storage=url)
    assert [t.params for t in other.trials] == params(study)
    assert other.best_value == study.best_trial.value
    go(tmp_path / "s", 8, storage=url, study_name="shared", resume=True)
    assert len(optuna.load_study(study_name="shared", storage=url).trials) == 8


def test_trials_found_in_the_storage_inform_the_sampler(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    before = optuna.create_study(storage=storage, study_name="old", sampler=optuna.samplers.RandomSampler(0))
    before.optimize(lambda t: t.suggest_float("x", -1, 1) ** 2 + t.suggest_int("y", 0, 5), n_trials=15)
    with_history = go(tmp_path / "a", 3, storage=storage, study_name="old", load_if_exists=True)
    without = go(tmp_path / "b", 3)
    assert params(with_history) != params(without)


def test_a_storage_that_several_studies_share_has_the_trials_of_all(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    for seed in (1, 2):
        go(tmp_path / str(seed), 3, seed=seed, storage=storage, study_name="shared", load_if_exists=True)
    assert len(optuna.load_study(study_name="shared", storage=storage).trials) == 6


def test_a_second_study_of_the_same_name_and_seed_is_written_to_the_storage_too(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    for directory in ("first", "second"):
        go(tmp_path / directory, 3, storage=storage, study_name="shared", load_if_exists=True)
    assert len(optuna.load_study(study_name="shared", storage=storage).trials) == 6


@pytest.mark.parametrize("option", ["sampler", "pruner"])
def test_what_is_no_sampler_or_pruner_is_refused_before_the_first_trial(tmp_path, option):
    with pytest.raises(SettingError, match=f"{option} must be an Optuna {option}, got 'tpe'"):
        go(tmp_path, **{option: "tpe"})


def test_a_study_with_other_directions_in_the_storage_is_refused_before_the_first_trial(tmp_path):
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage, study_name="old", direction="maximize")
    with pytest.raises(SettingError, match=r"keeps its directions, got \['minimize'\] for \"old\""):
        go(tmp_path, storage=storage, study_name="old", load_if_exists=True)


def learning(trial):
    """Curves that cross at equal steps but not at equal shares of training."""
    length = 10 if trial.number % 2 else 100
    x = trial.suggest_float("x", 0, 1)
    for step in range(1, 11):
        trial.report(1 - step / 10, step * length // 10, share=step / 10)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x


def test_trials_of_other_lengths_are_compared_at_equal_shares(tmp_path):
    pruner = optuna.pruners.PercentilePruner(90.0, n_startup_trials=2)
    by_share = go(tmp_path / "share", 8, learning, pruner=pruner)
    by_step = go(tmp_path / "step", 8, learning, pruner=pruner, compare_at="step")
    assert [t.state.value for t in by_share.trials].count("PRUNED") == 0
    assert [t.state.value for t in by_step.trials].count("PRUNED") > 2


@pytest.mark.parametrize(
    "pruner",
    [
        optuna.pruners.SuccessiveHalvingPruner(min_resource=10),
        optuna.pruners.HyperbandPruner(min_resource=10, max_resource=100),
        optuna.pruners.PatientPruner(None, patience=2),
        optuna.pruners.ThresholdPruner(upper=0.5),
        optuna.pruners.NopPruner(),
    ],
    ids=lambda p: type(p).__name__,
)
def test_optunas_pruners_work_also_across_a_resume(tmp_path, pruner):
    go(tmp_path, 5, learning, pruner=pruner)
    study = go(tmp_path, 8, learning, pruner=pruner, resume=True)
    assert all(t.state.finished for t in study.trials)
    assert len(study.trials) == 8


def test_several_objectives_prune_on_a_named_metric(tmp_path):
    def two(trial):
        x = trial.suggest_float("x", 0, 1)
        trial.report((x, 1 - x), 1, metrics={"eval_loss": x}, share=0.5)
        if trial.should_prune():
            raise optuna.TrialPruned
        return x, 1 - x

    pruner = optuna.pruners.ThresholdPruner(upper=0.5)
    study = go(
        tmp_path, 8, two, direction=["minimize", "minimize"], pruner=pruner, prune_metric=("eval_loss", "minimize")
    )
    for t in study.trials:
        assert (t.state.value == "PRUNED") == (t.params["x"] > 0.5)
