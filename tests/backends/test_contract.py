"""Every backend, and every kind of Optuna sampler, against the contract."""

from __future__ import annotations

import importlib.util

import optuna
import pytest

from tunesmith.backends.engine import EngineBackend
from tunesmith.backends.optuna import OptunaBackend
from tunesmith.testing.backends import BackendContract, TwoObjectives


class TestEngine(BackendContract):
    def make(self, setting):
        return EngineBackend(setting)


class TestEngineForTwo(TwoObjectives):
    def make(self, setting):
        return EngineBackend(setting)


class TestOptunaDefault(BackendContract):
    def make(self, setting):
        return OptunaBackend(setting)


class TestOptunaDefaultForTwo(TwoObjectives):
    n = 60  # one generation of NSGA-II and more

    def make(self, setting):
        return OptunaBackend(setting)


class TestRandom(BackendContract):
    def make(self, setting):
        return OptunaBackend(setting, sampler=optuna.samplers.RandomSampler())


class TestTPEMultivariate(BackendContract):
    def make(self, setting):
        sampler = optuna.samplers.TPESampler(n_startup_trials=3, multivariate=True, group=True, constant_liar=True)
        return OptunaBackend(setting, sampler=sampler)


class TestNSGAII(BackendContract):
    def make(self, setting):
        return OptunaBackend(setting, sampler=optuna.samplers.NSGAIISampler(population_size=3))


class TestNSGAIII(TwoObjectives):
    def make(self, setting):
        return OptunaBackend(setting, sampler=optuna.samplers.NSGAIIISampler(population_size=3))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN and infinity are among the values
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="Optuna's GPSampler needs torch")
class TestGP(BackendContract):
    n = 7

    def make(self, setting):
        return OptunaBackend(setting, sampler=optuna.samplers.GPSampler(n_startup_trials=3))


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="Optuna's CmaEsSampler needs cmaes")
class TestCmaEs(BackendContract):
    def make(self, setting):
        sampler = optuna.samplers.CmaEsSampler(n_startup_trials=2, popsize=5, warn_independent_sampling=False)
        return OptunaBackend(setting, sampler=sampler)


class TestQMC(BackendContract):
    def make(self, setting):
        return OptunaBackend(setting, sampler=optuna.samplers.QMCSampler(warn_independent_sampling=False))


class TestPartialFixed(BackendContract):
    def make(self, setting):
        inner = optuna.samplers.TPESampler(n_startup_trials=3)
        return OptunaBackend(setting, sampler=optuna.samplers.PartialFixedSampler({"even": 4}, inner))


class Own(optuna.samplers.BaseSampler):
    """A user's own, with a memory and random numbers of its own, hidden in a list."""

    def __init__(self):
        import numpy as np

        self.rng = np.random.default_rng()
        self.told = []

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        return {}

    def sample_independent(self, study, trial, param_name, param_distribution):
        if isinstance(param_distribution, optuna.distributions.CategoricalDistribution):
            return param_distribution.choices[len(self.told) % len(param_distribution.choices)]
        d = param_distribution
        value = d.low + (d.high - d.low) * self.rng.random()
        return d.to_external_repr(d.low + (value - d.low) // d.step * d.step) if d.step else value

    def after_trial(self, study, trial, state, values):
        self.told.append(state)


class TestOwn(BackendContract):
    def make(self, setting):
        return OptunaBackend(setting, sampler=Own())


PRUNERS = [
    optuna.pruners.MedianPruner(n_startup_trials=1),
    optuna.pruners.SuccessiveHalvingPruner(min_resource=10),
    optuna.pruners.HyperbandPruner(min_resource=10, max_resource=100),
    optuna.pruners.PatientPruner(optuna.pruners.MedianPruner(n_startup_trials=1), patience=1),
    optuna.pruners.WilcoxonPruner(),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # Wilcoxon's test warns of infinities
@pytest.mark.parametrize("pruner", PRUNERS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("backend", [EngineBackend, OptunaBackend])
def test_every_pruner_gives_decisions(backend, pruner):
    class Pruned(BackendContract):
        def make(self, setting):
            return backend(setting, pruner=pruner)

    Pruned().test_judging_gives_a_decision_whatever_is_reported()
