"""The backend "optuna": Optuna's samplers, pruners and storages behave as its users know them."""

from __future__ import annotations

import optuna
import pytest

import tunesmith


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


@pytest.mark.parametrize("name", ["random", "tpe", "tpe-multivariate", "gp"])
def test_a_resumed_search_proposes_what_an_uninterrupted_one_does(tmp_path, name):
    whole = go(tmp_path / "whole", 7, sampler=SAMPLERS[name]())
    go(tmp_path / "parts", 4, sampler=SAMPLERS[name]())
    parts = go(tmp_path / "parts", 7, sampler=SAMPLERS[name](), resume=True)
    assert params(parts) == params(whole)
    assert len({tuple(p.items()) for p in params(whole)}) > 1


@pytest.mark.parametrize("name", ["qmc", "nsga2"])
def test_samplers_with_state_of_their_own_run_and_resume(tmp_path, name):
    go(tmp_path, 4, sampler=SAMPLERS[name]())
    assert len(go(tmp_path, 7, sampler=SAMPLERS[name](), resume=True).trials) == 7


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


def learning(trial):
    """Curves that cross at equal steps but not at equal shares of training."""
    length = 10 if trial.number % 2 else 100
    x = trial.suggest_float("x", 0, 1)
    for step in range(1, 11):
        trial.report(1 - step / 10 + x / 1000, step * length // 10, share=step / 10)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x


def test_trials_of_other_lengths_are_compared_at_equal_shares(tmp_path):
    pruner = optuna.pruners.PercentilePruner(90.0, n_startup_trials=2)
    by_share = go(tmp_path / "share", 8, learning, pruner=pruner)
    by_step = go(tmp_path / "step", 8, learning, pruner=pruner, compare_at="step")
    assert [t.state.value for t in by_share.trials].count("PRUNED") <= 2
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
