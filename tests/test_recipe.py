"""The recipe of a Trainer: what each trial begins with is what the user's Trainer began with."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import tiny
import torch
import transformers
from test_trainer import rates

import tunesmith
from tunesmith import Trainer
from tunesmith.errors import SettingError


def test_an_optimizer_and_a_schedule_that_were_given_begin_each_trial_as_they_were(tmp_path):
    model = tiny.model_init()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / 8))
    seen = []

    class Begins(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **_):
            seen.append((optimizer.param_groups[0]["lr"], len(optimizer.state)))

        def __deepcopy__(self, memo):
            return self

    trainer = tunesmith.Trainer(
        model=model,
        args=tiny.arguments(tmp_path, save_strategy="no", num_train_epochs=1),
        train_dataset=tiny.Points(128, 0),
        eval_dataset=tiny.Points(64, 1),
        optimizers=(optimizer, schedule),
        callbacks=[Begins()],
    )
    best = trainer.hyperparameter_search(
        lambda trial: {"max_grad_norm": trial.suggest_float("max_grad_norm", 1.0, 1.1)}, n_trials=3, progress=False
    )
    assert seen == [(1e-2, 0)] * 3
    assert len({round(t.value, 2) for t in best.study.trials}) == 1
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-2


class Weighted(transformers.Trainer):
    """A Trainer of the kind that people write: its own argument, the others handed on."""

    def __init__(self, *args, gamma=2.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.focus = gamma
        self.seen = []
        self.steps = 0

    def training_step(self, *args, **kwargs):
        self.steps += 1
        self.seen.append((self.focus, getattr(self, "shift", None), getattr(self, "_scale", None)))
        return super().training_step(*args, **kwargs)


class Small(transformers.Trainer):
    """A Trainer that brings its model."""

    def __init__(self, args, data):
        super().__init__(model_init=tiny.model_init, args=args, train_dataset=data, eval_dataset=data)


def seen_in_trials(trainer):
    """What the training steps of a search of two trials saw."""
    seen = []

    class Ends(transformers.TrainerCallback):
        def on_train_end(self, args, state, control, **_):
            seen.append((set(trainer.seen), trainer.steps))

        def __deepcopy__(self, memo):
            return self

    trainer.add_callback(Ends())
    tunesmith.hyperparameter_search(
        trainer,
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1)},
        n_trials=2,
        progress=False,
    )
    return seen


def test_a_constructor_that_hands_on_what_it_is_given_by_position(tmp_path):
    data = tiny.Points(64, 0)
    args = tiny.arguments(tmp_path, save_strategy="no", num_train_epochs=1)
    trainer = tunesmith.tunable(Weighted)(tiny.model_init(), args, None, data, data, gamma=5.0)
    assert seen_in_trials(trainer) == [({(5.0, None, None)}, 4)] * 2
    assert (trainer.focus, trainer.train_dataset) == (5.0, data)


def test_a_constructor_that_takes_no_model_need_not_take_one(tmp_path):
    args = tiny.arguments(tmp_path, save_strategy="no", num_train_epochs=1)
    trainer = tunesmith.tunable(Small)(args, tiny.Points(64, 0))
    trainer.train_dataset = tiny.Points(32, 3)
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1)}, n_trials=2, progress=False
    )
    assert [r.step for t in best.study.completed() for r in t.reports] == [2, 2]


@pytest.mark.parametrize("recorded", [True, False])
def test_what_the_user_set_since_is_there_in_trials_and_afterwards(tmp_path, recorded):
    args = tiny.arguments(tmp_path, save_strategy="no", num_train_epochs=1)
    data = tiny.Points(64, 0)
    kind = tunesmith.tunable(Weighted) if recorded else Weighted
    trainer = kind(model_init=tiny.model_init, args=args, train_dataset=data, eval_dataset=data)
    if not recorded:
        trainer.train()  # what a training counts is not the user's
    trainer.focus, trainer.shift, trainer._scale = 7.0, 0.5, 3.0
    trainer.label_names = ["labels", "x"]
    with nullcontext() if recorded else pytest.warns(UserWarning, match=r"gamma=2.0; .* tunesmith.tunable\(Weighted\)"):
        seen = seen_in_trials(trainer)
    assert seen == [({(7.0, 0.5, 3.0)}, 4)] * 2
    assert (trainer.focus, trainer.shift, trainer._scale) == (7.0, 0.5, 3.0)
    assert not recorded or trainer.label_names == ["labels", "x"]


@pytest.mark.parametrize("kind", [tunesmith.Trainer, transformers.Trainer])
def test_an_evaluation_before_the_search_leaves_nothing_in_its_objective(tmp_path, kind):
    args = tiny.arguments(tmp_path, save_strategy="no", num_train_epochs=1)
    data = tiny.Points(64, 0)
    trainer = kind(model_init=tiny.model_init, args=args, train_dataset=data, eval_dataset=data)
    assert "eval_model_preparation_time" in trainer.evaluate()
    best = tunesmith.hyperparameter_search(
        trainer,
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1)},
        n_trials=1,
        progress=False,
    )
    assert best.objective == best.trial.metrics["eval_loss"]


@pytest.fixture
def given(tmp_path):
    """A Trainer that was given its model, and what its search of so many trials comes to."""
    torch.manual_seed(0)
    trainer = tunesmith.Trainer(
        model=tiny.model_init(),
        args=tiny.arguments(tmp_path, num_train_epochs=10),
        train_dataset=tiny.Points(64, 0),
        eval_dataset=tiny.Points(64, 1),
    )

    def search(n_trials, **settings):
        best = trainer.hyperparameter_search(
            lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-2, 1e-1)},
            n_trials=n_trials,
            seed=0,
            progress=False,
            **settings,
        )
        return [t.value for t in best.study.trials]

    return trainer, search


def test_trials_of_another_search_of_a_trainer_that_was_given_its_model_start_where_those_of_the_first_did(given):
    trainer, search = given
    first = search(2)
    assert search(2) == first
    trainer.evaluate()
    assert search(3, resume=True)[:2] == first
    whole = search(3, resume=False)
    assert whole[:2] == first
    assert search(3, resume=False, workers=1) == pytest.approx(whole, rel=1e-5)


def test_a_model_that_was_trained_since_is_where_the_next_search_starts(given):
    trainer, search = given
    first = search(2)
    trainer.train()
    assert search(2) != first


def test_frozen_weights_that_a_fused_optimizer_has_written_in_a_trial_are_found_out(tmp_path):
    class Thaw(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
            model.inner.requires_grad_(True)
            optimizer.add_param_group({"params": model.inner.parameters()})

    model = tiny.model_init()
    model.inner.requires_grad_(False)
    data = tiny.Points(32, 0)
    trainer = Trainer(
        model=model,
        args=tiny.arguments(tmp_path, optim="adamw_torch_fused", num_train_epochs=1),
        train_dataset=data,
        eval_dataset=data,
        callbacks=[Thaw()],
    )
    with pytest.raises(SettingError, match=r"a trial has changed 'inner.weight'; give the Trainer a model_init"):
        trainer.hyperparameter_search(rates, n_trials=2, seed=0, progress=False)


def test_a_later_search_that_cannot_begin_leaves_the_best_model_of_the_earlier_one(given):
    trainer, search = given
    search(2)
    best = trainer.model.inner.weight.detach().clone()
    with pytest.raises(tunesmith.errors.StudyChangedError):
        search(2, study="tunesmith", resume=True, directory=_another(trainer))
    assert torch.equal(trainer.model.inner.weight, best)


def _another(trainer):
    """The folder of a study of other directions, called tunesmith."""
    folder = f"{trainer.args.output_dir}/other"
    tunesmith.search(
        lambda trial: trial.suggest_float("x", 0, 1), 1, study="tunesmith", directory=folder, progress=False
    )
    return folder
