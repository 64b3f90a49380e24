"""What is told of a Trainer's hyperparameters before the first trial: what cannot be, and what would have no effect."""

from __future__ import annotations

import warnings

import pytest
import tiny
import torch
import transformers

from tunesmith import Trainer
from tunesmith.errors import SettingError
from tunesmith.hp_space import Probe, as_space_function
from tunesmith.hyperparameters import check

OLD = transformers.__version__.startswith("4.")


def told(trainer, hp_space, given=()):
    """What is said of a space."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(Probe.of(as_space_function(hp_space)), trainer, dict(given), strict=False)
    return " ".join(str(w.message) for w in caught)


def searched(**names):
    """A space of some numbers, each with its range: of whole ones where the bounds are."""

    def suggest(trial, name, low, high):
        return (trial.suggest_int if isinstance(low, int) else trial.suggest_float)(name, low, high)

    return lambda trial: {name.replace("__", "."): suggest(trial, name, *at) for name, at in names.items()}


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def search(trainer, hp_space=rates, n_trials=1, **settings):
    return trainer.hyperparameter_search(hp_space=hp_space, n_trials=n_trials, seed=0, progress=False, **settings)


@pytest.mark.parametrize("name", ["output_dir", "run_name", "push_to_hub", "resume_from_checkpoint"])
def test_what_the_search_sets_itself_is_refused(tmp_path, name):
    trainer = tiny.make(Trainer, tmp_path)
    with pytest.raises(SettingError, match=f"sets {name} itself: leave that out"):
        trainer.hyperparameter_search(lambda trial: {name: trial.suggest_categorical(name, ["a", "b"])}, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "space", "said"),
    [
        ({"optim": "adafactor"}, {"adam_beta1": (0.8, 0.9)}, "adam_beta1 has none with optim='adafactor'"),
        ({"optim": "adafactor"}, {"optim_args__clip": (0.1, 1)}, "optim_args.clip has none with optim='adafactor'"),
        (
            {"lr_scheduler_type": "constant"},
            {"warmup_steps": (1, 9)},
            "warmup_steps has none with lr_scheduler_type='con",
        ),
        ({"max_steps": 7}, {"num_train_epochs": (1, 3)}, "num_train_epochs has none with max_steps=7"),
        ({"optim": "adamw_torch"}, {"adam_beta1": (0.8, 0.9), "num_train_epochs": (1, 3), "warmup_steps": (1, 9)}, ""),
        ({"optim": "adafactor", "lr_scheduler_type": "cosine"}, {"weight_decay": (0.1, 1), "warmup_steps": (1, 9)}, ""),
        (
            {"lr_scheduler_type": "cosine_with_restarts"},
            {"lr_scheduler_kwargs__num_cycles": (1, 4), "learning_rate": (0.1, 1)},
            "",
        ),
    ],
)
def test_an_argument_that_another_one_overrules_is_said_to_have_no_effect(tmp_path, settings, space, said):
    found = told(tiny.make(Trainer, tmp_path, **settings), searched(**space))
    assert said in found
    assert bool(said) == bool(found)


def test_settings_that_the_schedule_does_not_take_are_refused(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, lr_scheduler_type="cosine_with_restarts")
    with pytest.raises(SettingError, match=r"what the schedule takes, got .*'num_cycle': .* unexpected keyword"):
        trainer.hyperparameter_search(searched(lr_scheduler_kwargs__num_cycle=(1, 4)), progress=False)
    assert not list(tmp_path.iterdir())


def test_what_is_enqueued_under_a_wrong_name_or_out_of_range_is_told_of(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, num_train_epochs=1)
    enqueue = [{"learning_rat": 0.01}, {"learning_rate": 5.0}]
    with pytest.warns(UserWarning, match="enqueued parameters") as caught:
        trainer.hyperparameter_search(rate, n_trials=1, enqueue=enqueue, progress=False)
    name, value = (str(w.message) for w in caught)
    assert "must be in the space, got learning_rat; known: learning_rate" in name
    assert "must be within their range, got learning_rate=5.0, which is not in FloatDistribution" in value


def test_a_name_for_runs_is_given_by_a_function(tmp_path):
    with pytest.raises(SettingError, match="hp_name must be a function of the trial that gives a name, got 'mine'"):
        tiny.make(Trainer, tmp_path).hyperparameter_search(rate, hp_name="mine", progress=False)


def test_arguments_of_sgd_are_said_to_have_no_effect_where_transformers_does_not_hand_them_on(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, optim="sgd")
    found = told(trainer, searched(optim_args__momentum=(0.1, 0.9)))
    assert ("optim_args.momentum has none with optim='sgd'" in found) is OLD
    assert ("optim_args has none" in told(trainer, lambda trial: {"optim_args": "momentum=0.9", **rate(trial)})) is OLD


def test_an_argument_that_counts_in_some_of_the_draws_is_not_told_of(tmp_path):
    def space(trial):
        optim = trial.suggest_categorical("optim", ["sgd", "adamw_torch"])
        return {"optim": optim, "adam_beta1": trial.suggest_float("adam_beta1", 0.8, 0.95)}

    assert not told(tiny.make(Trainer, tmp_path), space)


def test_a_trainer_that_makes_its_optimizer_itself_is_believed(tmp_path):
    class Own(Trainer):
        def create_optimizer(self, *args):
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=self.args.adam_beta1)
            return self.optimizer

    assert not told(tiny.make(Own, tmp_path, optim="adafactor"), searched(adam_beta1=(0.8, 0.9)))


def test_a_schedule_that_was_given_does_not_read_the_arguments_that_make_one(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    given = {"optimizers": (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))}
    found = told(tiny.make(Trainer, tmp_path), searched(warmup_steps=(1, 9)), given)
    assert "warmup_steps has none in a Trainer that was given a schedule in optimizers" in found


@pytest.mark.parametrize("hp_space", [lambda trial: {}, lambda trial: None, lambda trial: {"learning_rate": 0.1}, {}])
def test_a_space_that_suggests_nothing_is_told_of(tmp_path, hp_space):
    trainer = tiny.make(Trainer, tmp_path)
    assert "a space must have a parameter, and hp_space suggests none" in told(trainer, hp_space)
    with pytest.raises(SettingError, match="suggests none"):
        trainer.hyperparameter_search(hp_space, strict=True, progress=False)


def test_a_space_that_leaves_the_parameters_to_model_init_is_not(tmp_path):
    def init(trial):
        return tiny.TinyModel(tiny.TinyConfig(8 if trial is None else trial.suggest_int("hidden", 2, 8)))

    assert not told(tiny.make(Trainer, tmp_path, init=init), lambda trial: {})


def rate(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)}


def test_unknown_hyperparameters_are_reported_before_the_first_trial(tmp_path):
    def space(trial):
        return {**rates(trial), "learning_rat": trial.suggest_float("learning_rat", 0, 1)}

    with pytest.warns(UserWarning, match="'learning_rat' \\(did you mean 'learning_rate'\\?\\)"):
        search(tiny.make(Trainer, tmp_path), space)
    with pytest.raises(SettingError, match="learning_rat"):
        search(tiny.make(Trainer, tmp_path / "b"), space, strict=True)
    assert not (tmp_path / "b" / "study.sqlite").exists()


def test_a_value_that_cannot_be_is_an_error_before_the_first_trial(tmp_path):
    def space(trial):
        return {"per_device_train_batch_size": trial.suggest_float("per_device_train_batch_size", 1.1, 1.9)}

    with pytest.raises(SettingError, match=r"got .*: per_device_train_batch_size must be int"):
        search(tiny.make(Trainer, tmp_path), space)


def test_a_value_that_transformers_refuses_is_an_error_before_the_first_trial(tmp_path):
    def space(trial):
        return {"lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["cosinus"])}

    with pytest.raises(SettingError, match=r"got .'lr_scheduler_type': 'cosinus'.: cosinus is not a valid"):
        search(tiny.make(Trainer, tmp_path), space)


@pytest.mark.parametrize("argument", ["optimizers", "optimizer_cls_and_kwargs"])
def test_a_rate_that_a_given_optimizer_does_not_read_is_said_to_have_no_effect(tmp_path, argument):
    model = tiny.model_init()
    given = {
        "optimizers": (torch.optim.SGD(model.parameters(), lr=0.1), None),
        "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1}),
    }[argument]
    data = tiny.Points(32, 0)
    trainer = Trainer(
        model=model, args=tiny.arguments(tmp_path), train_dataset=data, eval_dataset=data, **{argument: given}
    )
    with pytest.raises(SettingError, match=f"learning_rate has none in a Trainer that was given {argument}"):
        search(trainer, strict=True)
    with pytest.warns(UserWarning, match="learning_rate has none"):
        search(trainer)
