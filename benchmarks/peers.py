"""Other tuners as Optuna samplers, so that search_quality.py can run them: HEBO, SMAC3, Ax and Vizier.

    pip install smac optuna; python benchmarks/search_quality.py run peers:smac --out smac.jsonl

Each wants an environment of its own: their versions of NumPy and JAX exclude one another. They are made with the space, as
users of theirs make them, by their defaults; a categorical parameter is categorical for all.
"""

import importlib
import logging
import sys
import tempfile
import warnings

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState


class Peer(BaseSampler):
    """A tuner that suggests all parameters at once: `ask()` gives them, `tell(params, loss)` what they came to."""

    def __init__(self, space, ask, tell):
        self._space, self._ask, self._tell = space, ask, tell

    def infer_relative_search_space(self, study, trial):  # noqa: ARG002
        return self._space

    def sample_relative(self, study, trial, search_space):  # noqa: ARG002
        return {name: _plain(value) for name, value in self._ask().items()}

    def sample_independent(self, study, trial, param_name, param_distribution):
        raise NotImplementedError(param_name)

    def after_trial(self, study, trial, state, values):  # noqa: ARG002
        if state is TrialState.COMPLETE:
            self._tell(trial.params, values[0])


def _plain(value):
    return value.item() if hasattr(value, "item") else value


def _needs(module, package):
    """The module, or an exit that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        sys.exit(f"this peer needs {module} ({error}): pip install {package} optuna, in an environment of its own")


def hebo(*, seed, space):
    """HEBO 0.3.6 (Cowen-Rivers et al. 2022)."""
    _needs("hebo", "HEBO")
    warnings.simplefilter("ignore")
    import numpy as np
    import pandas as pd
    import torch
    from hebo.design_space.design_space import DesignSpace
    from hebo.optimizers.hebo import HEBO

    def parameter(name, d):
        if isinstance(d, CategoricalDistribution):
            return {"name": name, "type": "cat", "categories": list(d.choices)}
        kind = ("pow" if d.log else "num") if isinstance(d, FloatDistribution) else ("pow_int" if d.log else "int")
        return {"name": name, "type": kind, "lb": d.low, "ub": d.high}

    np.random.seed(seed)  # noqa: NPY002  HEBO draws from the global generators
    torch.manual_seed(seed)
    tuner = HEBO(DesignSpace().parse([parameter(n, d) for n, d in space.items()]), scramble_seed=seed)

    def ask():
        return tuner.suggest(1).iloc[0].to_dict()

    return Peer(
        space,
        ask,
        lambda params, loss: tuner.observe(pd.DataFrame([params]), np.array([[loss]])),
    )


def smac(*, seed, space, facade="HyperparameterOptimizationFacade"):
    """SMAC3 2.4.1 (Lindauer et al. 2022), its random forest."""
    module = _needs("smac", "smac")
    import ConfigSpace

    def parameter(name, d):
        if isinstance(d, CategoricalDistribution):
            return ConfigSpace.CategoricalHyperparameter(name, list(d.choices))
        kind = (
            ConfigSpace.UniformFloatHyperparameter
            if isinstance(d, FloatDistribution)
            else ConfigSpace.UniformIntegerHyperparameter
        )
        return kind(name, d.low, d.high, log=d.log)

    known = ConfigSpace.ConfigurationSpace(seed=seed)
    known.add([parameter(n, d) for n, d in space.items()])
    scenario = module.Scenario(
        known, deterministic=True, n_trials=50, seed=seed, output_directory=tempfile.mkdtemp(prefix="smac-")
    )
    made = getattr(module, facade)
    tuner = made(scenario, lambda config, seed: 0.0, overwrite=True, logging_level=False)  # noqa: ARG005  its signature
    asked = {}

    def ask():
        asked["info"] = tuner.ask()
        return dict(asked["info"].config)

    def tell(_, loss):
        tuner.tell(asked["info"], module.runhistory.TrialValue(cost=loss), save=False)

    return Peer(space, ask, tell)


def smac_gp(*, seed, space):
    """SMAC3 2.4.1, its Gaussian process: what it advises for few trials."""
    return smac(seed=seed, space=space, facade="BlackBoxFacade")


def ax(*, seed, space):
    """Ax 1.3.1 with BoTorch 0.18.1, the strategy that it chooses itself."""
    _needs("ax.api.client", "ax-platform")
    warnings.simplefilter("ignore")
    from ax.api.client import Client
    from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

    for name in ("ax", "ax.api.client"):
        logging.getLogger(name).setLevel(logging.ERROR)

    def parameter(name, d):
        if isinstance(d, CategoricalDistribution):
            kind = {str: "str", bool: "bool", int: "int"}.get(type(d.choices[0]), "float")
            return ChoiceParameterConfig(name=name, values=list(d.choices), parameter_type=kind, is_ordered=False)
        kind = "float" if isinstance(d, FloatDistribution) else "int"
        scaling = "log" if d.log else "linear"
        return RangeParameterConfig(name=name, bounds=(d.low, d.high), parameter_type=kind, scaling=scaling)

    tuner = Client(random_seed=seed)
    tuner.configure_experiment(parameters=[parameter(n, d) for n, d in space.items()])
    tuner.configure_optimization(objective="-loss")
    asked = {}

    def ask():
        asked["number"], params = next(iter(tuner.get_next_trials(1).items()))
        return {name: params[name] for name in space}

    return Peer(space, ask, lambda _, loss: tuner.complete_trial(asked["number"], raw_data={"loss": loss}))


def vizier(*, seed, space):
    """Vizier 0.1.24 (Song et al. 2024), its default GP-UCB-PE; padded, so that JAX compiles it for few sizes only."""
    _needs("vizier._src.algorithms.designers.gp_ucb_pe", '"google-vizier[jax]" "jax==0.5.3"')
    warnings.simplefilter("ignore")
    import jax
    from vizier import algorithms, pyvizier
    from vizier._src.algorithms.designers.gp_ucb_pe import VizierGPUCBPEBandit
    from vizier.pyvizier.converters.padding import PaddingSchedule, PaddingType

    jax.config.update("jax_enable_x64", True)  # as Vizier's service does: in single precision its suggestions are empty
    problem = pyvizier.ProblemStatement()
    root = problem.search_space.root
    for name, d in space.items():
        if isinstance(d, CategoricalDistribution):
            root.add_categorical_param(name, [str(c) for c in d.choices])
        else:
            add = root.add_float_param if isinstance(d, FloatDistribution) else root.add_int_param
            add(name, d.low, d.high, scale_type=pyvizier.ScaleType.LOG if d.log else pyvizier.ScaleType.LINEAR)
    problem.metric_information.append(pyvizier.MetricInformation("loss", goal=pyvizier.ObjectiveMetricGoal.MINIMIZE))
    padding = PaddingSchedule(num_trials=PaddingType.MULTIPLES_OF_10)
    tuner = VizierGPUCBPEBandit(problem, rng=jax.random.PRNGKey(seed), padding_schedule=padding)
    asked = []

    def ask():
        asked.append(tuner.suggest(1)[0].to_trial(len(asked) + 1))
        return {name: given(d, asked[-1].parameters.get_value(name)) for name, d in space.items()}

    def given(d, value):
        if isinstance(d, CategoricalDistribution):
            return next(c for c in d.choices if str(c) == value)
        return value if isinstance(d, FloatDistribution) else int(value)

    def tell(_, loss):
        asked[-1].complete(pyvizier.Measurement({"loss": loss}))
        tuner.update(algorithms.CompletedTrials([asked[-1]]), algorithms.ActiveTrials())

    return Peer(space, ask, tell)
