"""Spaces with choices among dicts, as Ray Tune writes them."""

import pickle
import random

import numpy as np
import pytest
import tiny
from optuna.distributions import CategoricalDistribution as Cat
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from ray import tune

from tunesmith import Trainer, search
from tunesmith.conditional import COMPUTED, Conditional
from tunesmith.errors import SpaceError, UserFunctionError
from tunesmith.tracing import trace

SPACE = {
    "batch": tune.choice([8, 16]),
    "opt": tune.choice(
        [
            {"name": "adam", "lr": tune.loguniform(1e-5, 1e-3), "beta": tune.uniform(0.8, 0.99), "fused": True},
            {"name": "sgd", "lr": tune.uniform(0.1, 1), "nest": tune.choice([{"k": tune.randint(1, 4)}, None])},
        ]
    ),
    "wd": tune.sample_from(lambda spec: spec.config.opt.lr / 10),
}


def objective(trial):
    given = trial.config["opt"]
    assert trial["batch"] in (8, 16)
    assert given["name"] == trial.params["opt.name"]
    if given["name"] == "adam":
        assert set(given) == {"name", "lr", "beta", "fused"}
        assert given["lr"] == trial.params["opt.adam.lr"]
        assert given["beta"] == trial.params["opt.beta"]
    else:
        assert given["lr"] == trial.params["opt.sgd.lr"]
        assert ("k" in (given["nest"] or {})) == (trial.params["opt.nest"] == 0)
    assert trial.get("wd") == given["lr"] / 10
    return trial.params.get("opt.beta", 2.0)


@pytest.mark.parametrize("backend", ["tunesmith", "optuna", "sigopt"])
def test_choices_among_dicts_are_resolved_for_each_trial_and_recorded_as_conditional_parameters(tmp_path, backend):
    study = search(objective, 12, space=SPACE, backend=backend, directory=tmp_path, seed=1, progress=False)
    assert len(study.completed()) == 12
    assert {t.params["opt.name"] for t in study.trials} == {"adam", "sgd"}
    for trial in study.trials:
        names = {"batch", "opt.name"}
        names |= {"opt.adam.lr", "opt.beta"} if trial.params["opt.name"] == "adam" else {"opt.sgd.lr", "opt.nest"}
        assert set(trial.params) == names | ({"opt.nest.k"} if trial.params.get("opt.nest") == 0 else set())
        assert trial.attrs[COMPUTED] == {"wd": trial.params.get("opt.adam.lr", trial.params.get("opt.sgd.lr")) / 10}
    assert len(study.to_optuna().trials) == 12


def test_all_parameters_are_known_beforehand_and_what_decides_is_seen_by_those_who_trace():
    tree = Conditional.of(SPACE)
    assert tree.every == {
        "batch": Cat((8, 16)),
        "opt.name": Cat(("adam", "sgd")),
        "opt.adam.lr": Float(1e-5, 1e-3, log=True),
        "opt.beta": Float(0.8, 0.99),
        "opt.sgd.lr": Float(0.1, 1),
        "opt.nest": Cat((0, None)),
        "opt.nest.k": Int(1, 3),
    }
    traced = trace(tree)
    assert traced.space == tree.every
    assert traced.conditions["opt.beta"] == {"opt.name": ["adam"]}
    assert tree.described()["opt.adam.fused"] == "True"


def test_a_space_without_such_choices_is_none():
    assert Conditional.of({"x": tune.uniform(0, 1), "k": {"y": tune.choice([1, None])}}) is None
    assert Conditional.of({"parameters": {"x": {"values": [1, 2]}}}) is None
    assert Conditional.of(None) is None


@pytest.mark.parametrize(
    ("choices", "labels"),
    [
        ([None, {"k": 1}], (None, 1)),
        ([{"a": 1}, {"b": 2}], (0, 1)),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], (1, 2)),
        ([[64], [64, 64]], ("[64]", "[64, 64]")),
        ([np.tanh, len], ("tanh", "len")),
        ([1, {"a": 2}], (0, 1)),
        ([np.int64(8), {"k": 1}], (8, 1)),
        ([{"b": np.float32(1)}, {"b": np.float32(2)}], (1.0, 2.0)),
    ],
)
def test_what_choices_are_called(choices, labels):
    assert [d for n, d in Conditional.of({"p": tune.choice(choices)}).every.items() if n in ("p", "p.b")] == [
        Cat(labels)
    ]
    assert Conditional.of({"p": tune.grid_search(choices)}).every == Conditional.of({"p": tune.choice(choices)}).every


def test_an_initial_point_is_given_as_tune_gives_it_or_by_names():
    tree = Conditional.of(SPACE)
    nested = {"batch": 8, "opt": {"name": "sgd", "lr": 0.2, "nest": {"k": 2}}}
    named = {"batch": 8, "opt.name": "sgd", "opt.sgd.lr": 0.2, "opt.nest": 0, "opt.nest.k": 2}
    assert tree.point(nested) == tree.point(named) == named
    assert tree.point({"opt": {"name": "sgd", "nest": None}}) == {"opt.name": "sgd", "opt.nest": None}


def test_initial_points_come_first(tmp_path):
    first = {"batch": 16, "opt": {"name": "adam", "lr": 1e-4, "beta": 0.9}}
    study = search(objective, 2, space=SPACE, enqueue=[first], directory=tmp_path, seed=1, progress=False)
    assert study.trials[0].params == {"batch": 16, "opt.name": "adam", "opt.adam.lr": 1e-4, "opt.beta": 0.9}


class Fixed:
    """A trial that gets the first of each range."""

    number = 3

    def suggest_float(self, name, low, high, **_):
        return low

    suggest_int = suggest_float

    def suggest_categorical(self, name, choices):
        return choices[0]

    def set_user_attr(self, key, value):
        self.attr = (key, value)


def test_computed_values_ask_for_others_in_any_order_and_draw_by_the_trial():
    tree = Conditional.of(
        {
            "c": tune.sample_from(lambda config: config["b"] + 1),
            "b": tune.sample_from(lambda spec: spec.config.a.x + spec["config"]["a"]["x"]),
            "a": {"x": tune.uniform(1, 2)},
            "drawn": tune.sample_from(lambda _: random.random() + np.random.uniform()),  # noqa: NPY002
            "alone": tune.sample_from(lambda _: []),
        }
    )
    one, two = tree(Fixed()), tree(Fixed())
    assert one == two
    assert (one["b"], one["c"]) == (2, 3)
    other = Fixed()
    other.number = 4
    assert tree(other)["drawn"] != one["drawn"]
    assert other.attr == (COMPUTED, {**{n: v for n, v in tree(other).items() if n != "a.x"}, "alone": "[]"})


@pytest.mark.parametrize(
    ("space", "rule"),
    [
        (
            {"x": tune.sample_from(lambda spec: spec.config.y)},
            'must ask for what the space has, got AttributeError: y for "x"',
        ),
        ({"x": tune.sample_from(lambda _: 1), "y": [tune.uniform(0, 1)]}, "a list cannot hold domains"),
    ],
)
def test_what_cannot_be_is_said(space, rule):
    with pytest.raises(SpaceError, match=rule):
        Conditional.of(space)(Fixed())


def test_it_can_be_pickled_without_ray():
    tree = Conditional.of({"opt": tune.choice([{"name": "a", "x": tune.uniform(0, 1)}, {"name": "b"}])})
    assert b"ray" not in pickle.dumps(tree)
    assert pickle.loads(pickle.dumps(tree)) == tree


BRANCHES = {
    "learning_rate": tune.loguniform(1e-3, 1e-1),
    "lr_scheduler_kwargs": tune.choice([None, {"num_cycles": tune.choice([1, 2])}]),
    "opt": tune.choice(
        [{"optim": "adamw_torch", "adam_beta1": tune.uniform(0.8, 0.9)}, {"optim": "sgd", "weight_decay": 0.5}]
    ),
    "adam_epsilon": tune.sample_from(lambda config: config["learning_rate"] / 100),
}


def test_in_a_trainers_space_they_are_arguments(tmp_path):
    seen = []

    def init(trial=None):
        if trial is not None:
            args = trainer.args
            seen.append((trial.params, trial["opt"], args.optim, args.adam_beta1, args.weight_decay, args.adam_epsilon))
            assert args.lr_scheduler_kwargs in (
                None,
                {"num_cycles": trial.params.get("lr_scheduler_kwargs.num_cycles")},
            )
        return tiny.model_init()

    trainer = tiny.make(
        Trainer, tmp_path, init=init, num_train_epochs=1, lr_scheduler_type="cosine_with_restarts", save_strategy="no"
    )
    best = trainer.hyperparameter_search(BRANCHES, n_trials=5, seed=1, progress=False, strict=True)
    del seen[5:]  # the last one is for the best model, with the user's arguments
    for params, opt, optim, beta, decay, epsilon in seen:
        assert opt["optim"] == optim == params["opt.optim"]
        assert beta == params.get("opt.adam_beta1", 0.9)
        assert decay == opt.get("weight_decay", 0.0) == (0.5 if optim == "sgd" else 0.0)
        assert epsilon == params["learning_rate"] / 100
    assert {optim for _, _, optim, *_ in seen} == {"adamw_torch", "sgd"}
    assert best.hyperparameters["adam_epsilon"] == best.hyperparameters["learning_rate"] / 100


def test_two_values_for_one_argument_are_refused_before_any_trial(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, num_train_epochs=1)
    with pytest.raises(UserFunctionError, match="got two for 'adam_beta1'"):
        trainer.hyperparameter_search({**BRANCHES, "adam_beta1": tune.uniform(0, 1)}, n_trials=1)
