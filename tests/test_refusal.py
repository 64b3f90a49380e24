"""A model whose best weights were not saved: refused where they are meant, and free again for training."""

from __future__ import annotations

import inspect

import pytest
import tiny
import transformers

import tunesmith
from tunesmith.errors import ModelNotSavedError, SearchFailedError, StudyChangedError
from tunesmith.refusal import accept_use, refuse_use


class Stop(transformers.TrainerCallback):
    """Asks the study to stop when the first trial has reported."""

    def on_report(self, study, trial):
        study.record.request_stop("enough")


def paused(tmp_path):
    """A Trainer that was given its model, after a search that ended before any trial had completed."""
    trainer = tunesmith.Trainer(
        model=tiny.model_init(),
        args=tiny.arguments(tmp_path, save_strategy="no", eval_strategy="steps", eval_steps=2),
        train_dataset=tiny.Points(64, 0),
        eval_dataset=tiny.Points(64, 1),
    )
    with pytest.warns(UserWarning, match="no trial has completed"):
        search(trainer, callbacks=[Stop()])
    with pytest.raises(ModelNotSavedError, match="train with the best"):
        trainer.evaluate()
    return trainer


def search(trainer, **settings):
    return trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1)},
        n_trials=2,
        progress=False,
        **settings,
    )


def test_a_search_of_the_same_trainer_goes_on(tmp_path):
    trainer = paused(tmp_path)
    best = search(trainer)
    assert len(best.study.completed()) == 2
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


def test_the_model_may_be_trained_as_the_message_says(tmp_path):
    trainer = paused(tmp_path)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 1
    trainer.save_model(str(tmp_path / "saved"))
    assert not {"forward", "save_pretrained", "train"} & set(vars(trainer.model))


def test_what_was_put_around_the_model_before_and_after_stays():
    model = tiny.model_init()
    model.forward = own = lambda x=None: x
    refuse_use(model, "not the best")
    refuse_use(model, "still not the best")
    assert [*inspect.signature(model.forward).parameters] == ["x"]
    with pytest.raises(ModelNotSavedError, match="still"):
        model(x=1)
    with pytest.raises(ModelNotSavedError):
        model.eval()(x=1)
    around = model.forward
    model.forward = lambda x: around(x) + 1
    accept_use(model)
    assert model(x=1) == 2
    refuse_use(model, "again")
    del model.forward
    model.forward = around
    model.train()
    assert model.forward is around
    assert own(1) == model(x=1) == 1


def test_a_search_of_which_no_trial_came_to_an_evaluation_leaves_a_model_that_may_only_be_trained(tmp_path):
    trainer = tiny.make(tunesmith.Trainer, tmp_path, init=_only_outside_trials)
    with pytest.raises(SearchFailedError, match="too large"):
        trainer.hyperparameter_search(_rates, n_trials=3, progress=False)
    with pytest.raises(ModelNotSavedError, match="no trial has come to an evaluation"):
        trainer.evaluate()
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_search_that_cannot_begin_leaves_the_model_as_it_is(tmp_path):
    trainer = tiny.make(tunesmith.Trainer, tmp_path, num_train_epochs=1)
    trainer.train()
    before = trainer.evaluate()["eval_loss"]
    tunesmith.search(lambda t: t.suggest_float("x", 0, 1), 1, study="taken", directory=tmp_path, progress=False)
    with pytest.raises(StudyChangedError):
        trainer.hyperparameter_search(_rates, n_trials=2, study="taken", resume=True, progress=False)
    assert trainer.evaluate()["eval_loss"] == before


def _only_outside_trials(trial=None):
    if trial is not None:
        raise ValueError("too large")
    return tiny.model_init()


def _rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-1, log=True)}
