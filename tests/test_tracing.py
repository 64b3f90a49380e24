"""A define-by-run function traced into a static space."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tunesmith.tracing import trace


def test_branches_on_choices_and_small_integers_are_found_with_their_conditions():
    def define(trial):
        if trial.suggest_categorical("optimizer", ["adam", "sgd"]) == "sgd":
            trial.suggest_float("momentum", 0, 1)
        for k in range(trial.suggest_int("layers", 1, 3)):
            trial.suggest_int(f"units_{k}", 8, 64, log=True)

    traced = trace(define)
    assert traced.space == {
        "optimizer": CategoricalDistribution(("adam", "sgd")),
        "momentum": FloatDistribution(0, 1),
        "layers": IntDistribution(1, 3),
        **{f"units_{k}": IntDistribution(8, 64, log=True) for k in range(3)},
    }
    assert traced.conditions == {
        "momentum": {"optimizer": ["sgd"]},
        "units_1": {"layers": [2, 3]},
        "units_2": {"layers": [3]},
    }


def test_a_branch_that_two_parameters_decide_is_found_without_a_condition():
    def define(trial):
        if trial.suggest_categorical("a", [True, False]) and trial.suggest_categorical("b", [True, False]):
            trial.suggest_float("c", 0, 1)

    traced = trace(define)
    assert set(traced.space) == {"a", "b", "c"}
    assert traced.conditions == {"b": {"a": [True]}}


def test_where_a_range_depends_on_others_the_widest_is_taken():
    def define(trial):
        high = trial.suggest_categorical("high", [1, 5])
        trial.suggest_float("x", 0, high)
        trial.suggest_categorical("kind", ["a", "b"] if high == 1 else ["b", "c"])

    traced = trace(define)
    assert traced.space["x"] == FloatDistribution(0, 5)
    assert traced.space["kind"] == CategoricalDistribution(("a", "b", "c"))


def test_a_name_with_several_kinds_of_values_is_left_out_with_a_warning():
    def define(trial):
        if trial.suggest_categorical("way", [1, 2]) == 1:
            trial.suggest_float("x", 0, 1)
        else:
            trial.suggest_int("x", 0, 1)

    with pytest.warns(UserWarning, match='"x" has several kinds of values'):
        assert set(trace(define).space) == {"way"}


def test_many_independent_parameters_end_the_tracing_in_time():
    calls = []

    def define(trial):
        calls.append(1)
        for k in range(20):
            trial.suggest_float(f"x{k}", 0, 1)

    assert len(trace(define).space) == 20
    assert len(calls) < 3000
