"""Spaces in every dialect, there and back."""

from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution as Cat
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from tunesmith.errors import SpaceError
from tunesmith.space import as_function, parse_space, to_sigopt, to_wandb


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
        ({"distribution": "q_log_uniform_values", "min": 4, "max": 12, "q": 4}, Cat((4, 8, 12))),
    ],
)
def test_wandb_distributions(config, expected):
    assert parse_space({"method": "bayes", "parameters": {"p": config}}) == {"p": expected}


def test_wandb_log_uniform_has_exponents_as_bounds():
    found = parse_space({"p": {"distribution": "log_uniform", "min": -5, "max": 0}})["p"]
    assert found.log
    assert (found.low, found.high) == pytest.approx((math.exp(-5), 1.0))


def test_wandb_nested_parameters_have_dotted_names():
    nested = {"parameters": {"optimizer": {"parameters": {"lr": {"min": 0.1, "max": 1.0}}}}}
    assert parse_space(nested) == {"optimizer.lr": Float(0.1, 1.0)}


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
        ({"p": {"distribution": "normal", "mu": 0, "sigma": 1}}, "needs bounds|plain value"),
        ({"p": {"distribution": "log_uniform_values", "min": 0, "max": 1}}, "must begin above 0"),
        ({"p": {"distribution": "zipf", "min": 0, "max": 1}}, "unknown W&B distribution"),
        ({"p": object()}, "a distribution or a plain value"),
        ([{"type": "int"}], "a dict with a name"),
        ([{"name": "p", "type": "int", "bounds": {"min": 0.5, "max": 3}}], "whole numbers"),
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


@given(st.dictionaries(names, floats | choices, min_size=1))
def test_sigopt_there_and_back(space):
    assert parse_space(to_sigopt(space)) == space


@given(st.dictionaries(names, floats | ints | choices, min_size=1))
def test_as_function_suggests_every_parameter(space):
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    values = as_function(space)(trial)
    assert values == trial.params
    assert trial.distributions == space
