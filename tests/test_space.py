"""Spaces in every dialect, there and back."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution as Cat
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from tunesmith.errors import MissingDependencyError, SpaceError
from tunesmith.space import as_function, parse_space, to_ray, to_wandb


def test_optuna_distributions_pass_and_plain_values_become_one_choice():
    space = {"a": Float(0, 1), "b": 3, "c": {"d": Int(1, 4)}}
    assert parse_space(space) == {"a": Float(0, 1), "b": Cat((3,)), "c.d": Int(1, 4)}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"value": 5}, Cat((5,))),
        ({"values": [1, "a", None]}, Cat((1, "a", None))),
        ({"min": 1, "max": 5}, Int(1, 5)),
        ({"min": 1.0, "max": 5}, Float(1, 5)),
        ({"distribution": "uniform", "min": 0, "max": 1}, Float(0, 1)),
        ({"distribution": "int_uniform", "min": 2, "max": 9}, Int(2, 9)),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1}, Float(1e-4, 1, log=True)),
        ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1}, Float(1e-4, 1, log=True)),
        ({"distribution": "q_uniform", "min": 0, "max": 10, "q": 2}, Int(0, 10, step=2)),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, Float(0, 1, step=0.25)),
        ({"distribution": "q_log_uniform_values", "min": 4, "max": 64, "q": 1}, Int(4, 64, log=True)),
        ({"distribution": "q_uniform", "min": 1, "max": 10, "q": 4}, Int(4, 8, step=4)),
        ({"distribution": "q_log_uniform_values", "min": 4, "max": 12, "q": 4}, Cat((4, 8, 12))),
        ({"distribution": "q_log_uniform", "min": 0, "max": 2}, Int(1, 7, log=True)),
        ({"distribution": "categorical", "values": ["a", "b"]}, Cat(("a", "b"))),
        ({"distribution": "constant", "value": "a"}, Cat(("a",))),
    ],
)
def test_wandb_distributions(config, expected):
    assert parse_space({"method": "bayes", "parameters": {"p": config}}) == {"p": expected}


def test_wandb_log_uniform_has_exponents_as_bounds():
    found = parse_space({"p": {"distribution": "log_uniform", "min": -5, "max": 0}})["p"]
    assert found.log
    assert (found.low, found.high) == pytest.approx((math.exp(-5), 1.0))


def test_wandb_inv_log_uniform_is_of_the_inverse():
    found = parse_space({"p": {"distribution": "inv_log_uniform", "min": -5, "max": 0}})["p"]
    assert found.log
    assert (found.low, found.high) == pytest.approx((1.0, math.exp(5)))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"distribution": "normal"}, Float(-3, 3)),
        ({"distribution": "normal", "mu": 10, "sigma": 2}, Float(4, 16)),
        ({"distribution": "q_normal", "mu": 10, "sigma": 2}, Int(4, 16)),
        ({"distribution": "q_normal", "mu": 1, "sigma": 1, "q": 0.5}, Float(-2, 4, step=0.5)),
        ({"distribution": "log_normal"}, Float(math.exp(-3), math.exp(3), log=True)),
        ({"distribution": "q_log_normal"}, Int(1, 20, log=True)),
        ({"distribution": "q_log_normal", "sigma": 0.5, "q": 2}, Cat((2, 4))),
        ({"values": [1, 2], "probabilities": [0.9, 0.1]}, Cat((1, 2))),
    ],
)
def test_what_a_search_leaves_of_a_prior_is_said(config, expected):
    with pytest.warns(UserWarning, match='"p"'):
        assert parse_space({"p": config}) == {"p": expected}


def test_wandb_nested_parameters_have_dotted_names():
    nested = {"parameters": {"optimizer": {"parameters": {"lr": {"min": 0.1, "max": 1.0}}}}}
    assert parse_space(nested) == {"optimizer.lr": Float(0.1, 1.0)}


def test_numpys_numbers_and_arrays_are_plain_ones():
    found = parse_space({"a": {"min": np.int64(1), "max": np.int64(5)}, "b": {"values": np.linspace(0, 1, 3)}})
    assert found == {"a": Int(1, 5), "b": Cat((0.0, 0.5, 1.0))}
    assert all(type(c) is float for c in found["b"].choices)
    found = parse_space({"on": {"values": [np.bool_(True), np.bool_(False)]}, "name": {"values": [np.str_("adam")]}})
    assert [[type(c) for c in d.choices] for d in found.values()] == [[bool, bool], [str]]


def test_a_nested_space_may_use_the_names_of_wandbs_keys():
    assert parse_space({"lr": {"min": Float(0, 1), "max": Float(2, 3)}}) == {
        "lr.min": Float(0, 1),
        "lr.max": Float(2, 3),
    }


def test_ray_domains_mean_what_they_mean_in_ray():
    tune = pytest.importorskip("ray.tune")
    space = {
        "loguniform": (tune.loguniform(1e-5, 1e-1), Float(1e-5, 1e-1, log=True)),
        "uniform": (tune.uniform(0, 1), Float(0, 1)),
        "quniform": (tune.quniform(0, 1, 0.25), Float(0, 1, step=0.25)),
        "qloguniform": (tune.qloguniform(0.5, 2, 0.5), Cat((0.5, 1.0, 1.5, 2.0))),
        "randint": (tune.randint(1, 9), Int(1, 8)),
        "qrandint": (tune.qrandint(2, 10, 2), Int(2, 10, step=2)),
        "lograndint": (tune.lograndint(1, 9), Int(1, 8, log=True)),
        "qlograndint": (tune.qlograndint(4, 16, 4), Cat((4, 8, 12, 16))),
        "choice": (tune.choice(["a", None]), Cat(("a", None))),
        "grid": (tune.grid_search([1, 2]), Cat((1, 2))),
        "constant": (7, Cat((7,))),
    }
    assert parse_space({n: d for n, (d, _) in space.items()}) == {n: e for n, (_, e) in space.items()}
    with pytest.raises(SpaceError, match="write sample_from as a function of the trial"):
        parse_space({"p": tune.sample_from(lambda _: 1)})
    with pytest.warns(UserWarning, match="three standard deviations"):
        assert parse_space({"p": tune.randn(1, 1)}) == {"p": Float(-2, 4)}


def test_sigopt_parameters():
    found = parse_space(
        [
            {"name": "lr", "type": "double", "bounds": {"min": 1e-5, "max": 1}, "transformation": "log"},
            {"name": "n", "type": "int", "bounds": {"min": 1, "max": 8}},
            {"name": "kind", "type": "categorical", "categorical_values": ["a", {"name": "b"}]},
            {"name": "g", "type": "int", "grid": [2, 4, 8]},
        ]
    )
    assert found == {"lr": Float(1e-5, 1, log=True), "n": Int(1, 8), "kind": Cat(("a", "b")), "g": Cat((2, 4, 8))}


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (3, "a space is a function"),
        ({"p": {"min": 2, "max": 1}}, 'low must not exceed high, got low=2 high=1 for "p"'),
        ({"p": {"distribution": "normal", "mu": 0, "sigma": -1}}, "must be above 0, got -1"),
        ({"p": {"distribution": "log_uniform", "min": 0, "max": 1000}}, "exponents of e"),
        ({"p": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}}, "must be above 0, got 0"),
        ({"p": {"distribution": "uniform", "min": 0}}, "needs min and max"),
        ({"p": {"distribution": "uniform", "min": "1e-5", "max": 1}}, "finite number, got '1e-5'"),
        ({"p": {"values": "adam"}}, "must be a list"),
        ({"p": {"values": [[1, 2]]}}, r"a choice must be None, .* got \[1, 2\]"),
        ({"parameters": {"p": {"distrbution": "normal"}}}, "got 'distrbution' for \"p\"; did you mean 'distribution'"),
        ({"p": {"distribution": "constant"}}, 'constant needs its value or values, got .* for "p"'),
        ({"p": {"min": 0, "max": 1}, "epochs": 3}, 'a W&B parameter is a dict .* got 3 for "epochs"'),
        ({"p": {"distribution": "log_uniform_values", "min": 0, "max": 1}}, "must begin above 0"),
        ({"p": {"distribution": "zipf", "min": 0, "max": 1}}, "a W&B distribution is one of .* got 'zipf' for \"p\""),
        ({"p": object()}, "a distribution or a plain value"),
        ([{"type": "int"}], "a dict with a name"),
        ([{"name": "p", "type": "int", "bounds": {"min": 0.5, "max": 3}}], "whole numbers"),
        ([{"name": "p", "type": "int", "bounds": {"min": 0, "max": 3}}] * 2, 'got "p" twice'),
        ([{"name": "p", "type": "int", "bounds": {"min": 0, "max": 3}, "conditions": {"o": ["a"]}}], "no conditions"),
        ([{"name": "p", "type": "double"}], "with bounds, or has categorical_values or a grid"),
    ],
)
def test_what_cannot_be_is_refused_with_rule_and_value(space, text):
    with pytest.raises(SpaceError, match=text):
        parse_space(space)


names = st.text("abcdefgh_", min_size=1, max_size=6)
floats = st.tuples(st.floats(1e-3, 1e3), st.floats(1.01, 100), st.booleans()).map(
    lambda t: Float(t[0], t[0] * t[1], log=t[2])
)
ints = st.tuples(st.integers(1, 50), st.integers(1, 50), st.booleans()).map(lambda t: Int(t[0], t[0] + t[1], log=t[2]))
choices = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, unique=True).map(lambda c: Cat(tuple(c)))


@given(st.dictionaries(names, floats | ints | choices, min_size=1))
def test_wandb_there_and_back(space):
    assert parse_space({"parameters": to_wandb(space)}) == space


@given(st.dictionaries(names, floats | ints | choices, min_size=1))
def test_ray_there_and_back(space):
    pytest.importorskip("ray.tune")
    assert parse_space(to_ray(space)) == space


def test_to_ray_says_what_to_install():
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    with pytest.raises(MissingDependencyError, match=r"pip install"):
        to_ray({"p": Float(0, 1)})


@given(st.integers(-20, 20), st.integers(1, 9), st.integers(0, 20))
def test_ranges_with_steps_keep_their_values_in_wandbs_form(low, step, steps):
    space = {"p": Int(low, low + steps * step, step=step), "q": Float(low, low + steps * step, step=step)}
    values = range(low, low + steps * step + 1, step)
    for d in parse_space({"parameters": to_wandb(space)}).values():
        assert all(d._contains(d.to_internal_repr(v)) for v in values)
        assert not isinstance(d, Cat) or tuple(d.choices) == tuple(values)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["p", "name", "type", "bounds", "min", "max", "q", "distribution", "values", "parameters"]),
            inner | st.sampled_from(["q_uniform", "log_uniform", "q_log_uniform_values", "normal", "int", "double"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(json)
def test_anything_is_a_space_or_a_space_error(thing):
    try:
        found = parse_space(thing)
    except SpaceError:
        return
    assert all(isinstance(d, Float | Int | Cat) for d in found.values())


@given(st.dictionaries(names, floats | ints | choices, min_size=1))
def test_as_function_suggests_every_parameter(space):
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    values = as_function(space)(trial)
    assert values == trial.params
    assert trial.distributions == space
