"""Parameters as text that can be pasted where they are needed."""

from enum import Enum

import numpy as np
import pytest
import tiny
from ray import tune
from transformers import TrainingArguments

from tunesmith import Trainer
from tunesmith.arguments import identity
from tunesmith.report.data import report_data
from tunesmith.settings_text import as_json, as_python


def test_a_call_of_training_arguments_can_be_run_also_with_what_model_init_has_suggested(tmp_path):
    params = {"learning_rate": 1e-5, "lr_scheduler_kwargs.power": 2.0, "dropout": 0.1}
    text = as_python(params, identity(TrainingArguments(str(tmp_path))))
    made = eval(text, {"TrainingArguments": lambda **given: TrainingArguments(str(tmp_path), **given)})
    assert (made.learning_rate, made.lr_scheduler_kwargs) == (1e-5, {"power": 2.0})
    assert text.endswith("\n# not of TrainingArguments: dropout = 0.1")


def test_without_arguments_it_is_a_dict():
    params = {"x": 1, "a.b": "c"}
    assert eval(as_python(params)) == {"x": 1, "a": {"b": "c"}}


BRANCHES = {
    "opt": tune.choice(
        [
            {"optim": "sgd", "learning_rate": tune.loguniform(1e-2, 1e-1), "weight_decay": 0.1},
            {"optim": "adamw_torch", "learning_rate": tune.loguniform(1e-4, 1e-3), "weight_decay": 0.1},
        ]
    )
}


def powers(trial):
    return {"learning_rate": 10 ** trial.suggest_float("exponent", -3, -1), "weight_decay": 0.1}


@pytest.mark.parametrize("space", [BRANCHES, powers], ids=["choices among dicts", "a function that computes"])
def test_what_a_trial_was_given_can_be_pasted_whatever_the_names_and_scales_that_were_searched(tmp_path, space):
    def model_init(trial):
        if trial is not None:
            trial.suggest_float("dropout", 0, 1)
        return tiny.model_init()

    given = []

    class Watched(Trainer):
        def train(self, *args, **kwargs):
            given.append(self.args)
            return super().train(*args, **kwargs)

    trainer = tiny.make(Watched, tmp_path, init=model_init, num_train_epochs=1)
    study = trainer.hyperparameter_search(space, n_trials=1, seed=0, progress=False).run_summary
    text = report_data(study)["settings"]["Python"]
    made = eval(text, {"TrainingArguments": lambda **kwargs: TrainingArguments(str(tmp_path), **kwargs)})
    for name in ("learning_rate", "weight_decay", "optim"):
        assert getattr(made, name) == getattr(given[0], name)
    dropout = study.trials[0].params["dropout"]
    assert text.endswith(f")\n# not of TrainingArguments: dropout = {dropout}")


class Kind(Enum):
    A = "a"


@pytest.mark.parametrize(
    ("value", "text"),
    [(np.int64(3), 3), (Kind.A, "a"), ((1, [2]), [1, [2]]), ({"a": None}, {"a": None}), (int, str(int))],
)
def test_what_json_cannot_say_becomes_text(value, text):
    assert as_json(value) == text
