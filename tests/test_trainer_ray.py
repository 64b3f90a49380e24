"""A Trainer's search in Ray actors, and one that Ray Tune drives."""

import math
from pathlib import Path

import pytest
import tiny
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, HyperBandScheduler, PopulationBasedTraining
from ray.tune.search.optuna import OptunaSearch
from transformers import TrainerCallback

import tunesmith
from tunesmith.errors import SettingError
from tunesmith.trial import TrialState

SPACE = {"learning_rate": tune.loguniform(1e-4, 1e-1)}

pytestmark = [
    pytest.mark.usefixtures("small_ray"),
    pytest.mark.filterwarnings("ignore:no worker has started"),  # on a loaded machine
]


class Rates(TrainerCallback):
    """Writes the learning rate of each step, as the optimizer has it."""

    def on_step_end(self, args, state, control, optimizer=None, **_):
        with (Path(args.output_dir) / f"{state.trial_name}.rates").open("a") as file:
            file.write(f"{state.global_step} {optimizer.param_groups[0]['lr']!r}\n")


def rates(directory, number):
    lines = (directory / f"run-{number}.rates").read_text().splitlines()
    return {int(step): float(rate) for step, rate in map(str.split, lines)}


def test_a_trainers_trial_runs_on_several_ranks_and_the_best_model_comes_back(tmp_path):
    trainer = tiny.make(tunesmith.Trainer, tmp_path, num_train_epochs=1)
    best = trainer.hyperparameter_search(
        SPACE, n_trials=1, runner="ray", workers=1, ranks_per_trial=2, progress=False, seed=1
    )
    (trial,) = best.run_summary.trials
    assert [r.step for r in trial.reports] == [4]  # half as many as on one rank, with half of the data on each
    assert math.isclose(trainer.evaluate()["eval_loss"], best.objective, rel_tol=1e-5)


def test_population_based_training_really_changes_the_learning_rate_and_reports_what_was_trained_with_it(tmp_path):
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations=SPACE,
        quantile_fraction=0.5,
        resample_probability=0,  # so that each change is one by a fifth
        synch=True,
    )
    trainer = tiny.make(
        tunesmith.Trainer,
        tmp_path,
        num_train_epochs=3,
        lr_scheduler_type="constant",
        callbacks=[Rates()],
        save_total_limit=1,
    )
    best = trainer.hyperparameter_search(
        SPACE, n_trials=3, backend="ray", scheduler=scheduler, resources_per_trial={"cpu": 2}, seed=1, progress=False
    )
    study = best.run_summary.study
    assert len(best.run_summary.trials) == len(study.trials) == 3  # Tune's own account, and ours beside it
    assert all(t.state is TrialState.COMPLETE and t.attempt == 1 for t in study.trials)
    changed = [t for t in study.trials if "inherited" in t.attrs]
    assert changed
    for trial in study.trials:
        found = rates(tmp_path, trial.number)
        assert sorted(found) == list(range(1, 25))
        assert [r.step for r in trial.reports] == [8, 16, 24]
        since = max([e["step"] for e in trial.attrs.get("inherited", [])], default=0)
        assert since < 24  # nothing is given to a trial that has been trained to its end
        assert {found[s] for s in range(since + 1, 25)} == {trial.params["learning_rate"]}
        assert trial.values == trial.reports[-1].values
        for entry in trial.attrs.get("inherited", []):
            giver = rates(tmp_path, entry["from"])[entry["step"]]
            assert found[entry["step"]] == entry["parameters_before"]["learning_rate"]
            assert found[entry["step"] + 1] == pytest.approx(giver * 1.2) or found[entry["step"] + 1] == pytest.approx(
                giver * 0.8
            )
    assert best.hyperparameters == study.best_trial.params
    assert math.isclose(trainer.evaluate()["eval_loss"], best.objective, rel_tol=1e-5)
    assert len(list(tmp_path.glob("run-*/checkpoint-*"))) == 3  # save_total_limit
    assert not list((tmp_path / "ray").rglob("*.safetensors"))  # and nothing is stored twice


def branching(trial):
    """A space with a branch, for a Trainer."""
    if trial.suggest_categorical("optim", ["adamw_torch", "sgd"]) == "sgd":
        return {"optim": "sgd", "learning_rate": trial.suggest_float("rate", 0.05, 0.5)}
    return {"optim": "adamw_torch", "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def two_ranges(trial):
    """One name with a range for each branch."""
    low = {"sgd": 0.05, "adamw_torch": 1e-4}[trial.suggest_categorical("optim", ["adamw_torch", "sgd"])]
    return {"optim": trial.params["optim"], "learning_rate": trial.suggest_float("learning_rate", low, 0.5)}


def init_or_fail(trial=None):
    """One trial learns nothing."""
    model = tiny.model_init()
    if trial is not None and trial.number == 4:
        with torch.no_grad():
            model.outer.bias.fill_(float("nan"))
    return model


def both(metrics):
    return metrics["eval_loss"], metrics["eval_accuracy"]


def test_hyperband_pauses_and_goes_on_with_two_objectives_and_a_failure_loses_nothing(tmp_path):
    trainer = tiny.make(
        tunesmith.Trainer, tmp_path, init=init_or_fail, compute_metrics=tiny.accuracy, save_strategy="no"
    )
    found = trainer.hyperparameter_search(
        branching,
        both,
        n_trials=5,
        direction=["minimize", "maximize"],
        backend="ray",
        scheduler=HyperBandScheduler(max_t=2, reduction_factor=2),
        resources_per_trial={"cpu": 2},
        seed=1,
        progress=False,
    )
    study = tunesmith.load_study(tmp_path)
    *others, failed = study.trials
    assert failed.reason == "nan: the objective is nan at step 8"
    # Hyperband's two brackets of two trials: one stops none, the other one
    assert sorted(t.state.value for t in others) == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]
    assert all([r.step for r in t.reports] == ([8, 16] if t.values else [8]) for t in others)
    assert all(("rate" in t.params) == (t.params["optim"] == "sgd") for t in others)
    assert [run.objective for run in found] == [list(t.values) for t in study.best_trials]
    assert math.isclose(trainer.evaluate()["eval_loss"], found[0].objective[0], rel_tol=1e-5)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"scheduler": ASHAScheduler(), "eval_strategy": "no"}, 'eval_strategy must be "steps" or "epoch"'),
        (
            {"scheduler": ASHAScheduler(), "direction": ["minimize"] * 2},
            "need a compute_objective that returns 2 values",
        ),
        ({"search_alg": OptunaSearch(), "enqueue": [{"learning_rate": 1e-3}]}, "enqueue must be left out"),
        (
            {"scheduler": PopulationBasedTraining(hyperparam_mutations={"weight_decay": [0, 1]})},
            "hyperparameters must be in the space, got weight_decay; it has learning_rate",
        ),
        (
            {"scheduler": ASHAScheduler(), "hp_space": two_ranges},
            'a parameter has one range .* for "learning_rate"; give each',
        ),
    ],
)
def test_what_cannot_be_is_reported_before_anything_trains(tmp_path, changes, rule):
    arguments = {k: changes[k] for k in changes if k == "eval_strategy"}
    trainer = tiny.make(tunesmith.Trainer, tmp_path, **arguments, **({"save_strategy": "no"} if arguments else {}))
    settings = {k: v for k, v in changes.items() if k not in arguments}
    with pytest.raises(SettingError, match=rule):
        trainer.hyperparameter_search(**{"hp_space": SPACE, **settings}, n_trials=2, backend="ray")
    assert not list(tmp_path.glob("**/study.sqlite"))
