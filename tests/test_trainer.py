"""The Trainer side on real transformers Trainers, small enough that a trial takes about a second."""

from __future__ import annotations

import copy
import gc
import math
import warnings
import weakref

import optuna
import pytest
import tiny
import torch
import transformers
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import BestRun

import tunesmith
from tunesmith import Trainer
from tunesmith.errors import ModelNotSavedError, UserFunctionError
from tunesmith.trial import TrialState


def rates(trial):
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)}


def search(trainer, hp_space=rates, n_trials=3, **settings):
    return trainer.hyperparameter_search(hp_space=hp_space, n_trials=n_trials, seed=0, progress=False, **settings)


@pytest.mark.parametrize("backend", [None, "tunesmith", "optuna"])
def test_a_search_gives_a_best_run_and_the_best_model(tmp_path, backend):
    trainer = tiny.make(Trainer, tmp_path)
    best = search(trainer, backend=backend)
    assert isinstance(best, BestRun)
    assert best.hyperparameters.keys() == {"learning_rate"}
    values = [t.value for t in best.run_summary.trials]
    assert len(values) == 3
    assert best.objective == min(values) == values[int(best.run_id)]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)
    assert (tmp_path / f"run-{best.run_id}").is_dir()
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_training_again_with_the_best_hyperparameters_gives_the_same_objective(tmp_path):
    best = search(tiny.make(Trainer, tmp_path))
    again = tiny.make(transformers.Trainer, tmp_path / "again", **best.hyperparameters)
    again.train()
    assert again.evaluate()["eval_loss"] == best.objective


def test_without_checkpoints_the_best_model_is_kept_in_memory(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, save_strategy="no", eval_strategy="no")
    best = search(trainer)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


def test_a_best_model_that_was_not_saved_says_so_when_it_is_used(tmp_path):
    search(tiny.make(Trainer, tmp_path, save_strategy="no"), n_trials=2, study="s")
    trainer = tiny.make(Trainer, tmp_path, save_strategy="no")
    best = search(trainer, n_trials=2, study="s", resume=True)  # all done by the other process: nothing in memory
    assert best.objective < 1
    with pytest.raises(ModelNotSavedError, match="save_strategy"):
        trainer.evaluate()


def test_the_value_is_that_of_the_checkpoint_kept(tmp_path):
    trainer = tiny.make(
        Trainer, tmp_path, num_train_epochs=4, load_best_model_at_end=True, metric_for_best_model="loss"
    )
    best = search(
        trainer,
        lambda t: {"learning_rate": t.suggest_float("learning_rate", 0.3, 1.0)},
        compute_objective=lambda m: m["eval_loss"],
    )
    for trial in best.run_summary.trials:
        assert trial.value == min(r.values[0] for r in trial.reports)
        step = next(r.step for r in trial.reports if r.values == trial.values)
        assert trial.checkpoint.endswith(f"checkpoint-{step}")


def test_the_users_arguments_and_trainer_come_back(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, callbacks=[EarlyStoppingCallback(1)], load_best_model_at_end=True)
    args, before = trainer.args, copy.deepcopy(trainer.args.to_dict())
    kinds = [type(c) for c in trainer.callback_handler.callbacks]
    search(trainer, n_trials=2)
    assert trainer.args is args
    assert args.to_dict() == before
    assert type(trainer) is Trainer
    assert [type(c) for c in trainer.callback_handler.callbacks] == kinds
    assert trainer.hp_search_backend is None
    assert trainer.hp_name is None
    assert not trainer.state.is_hyper_param_search


def test_what_init_copies_takes_effect(tmp_path):
    seen = []

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            seen.append(args.label_smoothing_factor)

    trainer = tiny.make(Trainer, tmp_path, callbacks=[Spy()])

    def space(trial):
        return {"label_smoothing_factor": trial.suggest_float("label_smoothing_factor", 0.1, 0.4)}

    best = search(trainer, space, n_trials=3)
    losses = [t.value for t in best.run_summary.trials]
    assert len(set(losses)) == 3  # only the smoothing differs, so it was applied
    assert seen == [t.params["label_smoothing_factor"] for t in best.run_summary.trials]


class Patience(TrainerCallback):
    """A callback with state that must not outlive a trial."""

    def __init__(self):
        self.evaluations = 0
        self.seen = []

    def on_evaluate(self, args, state, control, **kwargs):
        self.evaluations += 1
        ENDS.append(self.evaluations)


ENDS: list[int] = []


def test_callbacks_are_fresh_in_each_trial_and_the_users_object_is_untouched(tmp_path):
    ENDS.clear()
    patience = Patience()
    trainer = tiny.make(Trainer, tmp_path, callbacks=[patience])
    search(trainer, n_trials=3)
    assert ENDS == [1, 2] * 3
    assert patience.evaluations == 0
    assert patience in trainer.callback_handler.callbacks


def test_a_callback_added_and_one_removed_after_construction_are_so_in_trials(tmp_path):
    ENDS.clear()
    trainer = tiny.make(Trainer, tmp_path, callbacks=[EarlyStoppingCallback(1)])
    trainer.remove_callback(EarlyStoppingCallback)  # it would refuse to run without load_best_model_at_end
    trainer.add_callback(Patience())
    search(trainer, n_trials=2)
    assert ENDS == [1, 2] * 2


def small_gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1, n_positions=8)
    )


def test_gradient_checkpointing_and_hooks_are_those_of_the_trial_also_on_a_model_that_all_share(tmp_path):
    seen = []

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            hooks = len(model.get_input_embeddings()._forward_hooks)
            seen.append((model.is_gradient_checkpointing, hooks))
            if state.trial_name == "run-0":
                raise RuntimeError("after NEFTune's hook was set")

    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)} for _ in range(32)]
    trainer = tunesmith.tunable(transformers.Trainer)(
        model=small_gpt2(),
        args=tiny.arguments(tmp_path, num_train_epochs=1),
        train_dataset=rows,
        eval_dataset=rows[:8],
        callbacks=[Spy()],
    )

    def space(trial):
        on = trial.suggest_categorical("on", [True, False])
        chosen = {"gradient_checkpointing": on, **rates(trial)}
        return {**chosen, "neftune_noise_alpha": 5.0} if trial.number == 0 else chosen

    enqueue = [{"on": True}, {"on": False}, {"on": True}]
    search(trainer, space, enqueue=enqueue)
    # checkpointing itself sets a hook
    assert seen == [(True, seen[2][1] + 1), (False, 0), (True, seen[2][1])]


def test_catch_says_that_every_failure_is_recorded(tmp_path):
    with pytest.warns(UserWarning, match="catch is not used, got .*ValueError.* max_failures=1"):
        search(tiny.make(Trainer, tmp_path), n_trials=1, backend="optuna", catch=(ValueError,), gc_after_trial=True)


def test_conditional_parameters_do_not_persist(tmp_path):
    decays = []

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            decays.append(args.weight_decay)

    def space(trial):
        if trial.number % 2 == 0:
            return {"weight_decay": trial.suggest_float("weight_decay", 0.1, 0.3)}
        return rates(trial)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search(tiny.make(Trainer, tmp_path, callbacks=[Spy()]), space, n_trials=4)
    assert decays[1] == decays[3] == 0.0
    assert decays[0] >= 0.1


def test_no_earlier_model_is_alive_at_model_init(tmp_path):
    alive, models = [], []

    def init(trial=None):
        gc.collect()
        alive.append(sum(ref() is not None for ref in models))
        model = tiny.model_init()
        models.append(weakref.ref(model))
        return model

    search(tiny.make(Trainer, tmp_path, init=init), n_trials=4)
    assert alive == [0] * len(alive)
    assert len(alive) == 6  # construction, four trials, and the model that is handed back


@pytest.mark.parametrize("users_own", [False, True])
def test_what_lives_before_the_search_is_no_work_for_the_garbage_collector_during_it(tmp_path, users_own):
    frozen = []

    def init(trial=None):
        frozen.append(gc.get_freeze_count())
        return tiny.model_init()

    trainer = tiny.make(Trainer, tmp_path, init=init)
    if users_own:
        gc.freeze()
    try:
        before = gc.get_freeze_count()
        search(trainer, n_trials=2)
        assert 1000 < frozen[1] <= before if users_own else before < 1000 < frozen[1]
        assert (gc.get_freeze_count() > 0) is users_own  # as it was
    finally:
        gc.unfreeze()


def test_the_trials_seed_is_set_before_model_init(tmp_path):
    firsts = {}

    def init(trial=None):
        model = tiny.model_init()
        if trial is not None:
            firsts.setdefault(trial.params.get("seed"), []).append(float(model.inner.weight.detach()[0, 0]))
        return model

    def space(trial):
        return {"seed": trial.suggest_int("seed", 1, 40)}

    best = search(tiny.make(Trainer, tmp_path, init=init), space, n_trials=3)
    for trial in best.run_summary.trials:
        torch.manual_seed(0)
        transformers.set_seed(trial.params["seed"])
        assert float(tiny.model_init().inner.weight.detach()[0, 0]) in firsts[trial.params["seed"]]


def test_model_init_may_suggest(tmp_path):
    def init(trial=None):
        hidden = 8 if trial is None else trial.suggest_categorical("hidden", [4, 16])
        return tiny.TinyModel(tiny.TinyConfig(hidden=hidden))

    trainer = tiny.make(Trainer, tmp_path, init=init)
    best = search(trainer)
    assert best.hyperparameters.keys() == {"learning_rate", "hidden"}
    assert trainer.model.config.hidden == best.hyperparameters["hidden"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


def test_a_trainer_without_model_init_starts_each_trial_from_the_same_weights(tmp_path):
    firsts = []

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            firsts.append(float(model.inner.weight.detach()[0, 0]))

    trainer = transformers.Trainer(
        model=tiny.model_init(),
        args=tiny.arguments(tmp_path),
        train_dataset=tiny.Points(128, 0),
        eval_dataset=tiny.Points(64, 1),
        callbacks=[Spy()],
    )
    best = tunesmith.hyperparameter_search(trainer, rates, n_trials=3, seed=0, progress=False)
    assert len(set(firsts)) == 1
    assert len(firsts) == 3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective, rel=1e-6)


def test_any_trainer_class_can_be_made_tunable(tmp_path):
    class Own(transformers.Trainer):
        def __init__(self, *args, beta=0.1, **kwargs):
            super().__init__(*args, **kwargs)
            self.beta_squared = beta**2

    trainer = tunesmith.tunable(Own)(
        model_init=tiny.model_init,
        args=tiny.arguments(tmp_path),
        train_dataset=tiny.Points(64, 0),
        eval_dataset=tiny.Points(64, 1),
        beta=0.5,
    )
    trainer.noticed = "kept"
    search(trainer, n_trials=2)
    assert trainer.beta_squared == 0.25
    assert trainer.noticed == "kept"


def test_bugs_in_the_users_functions_raise_at_once(tmp_path):
    with pytest.raises(UserFunctionError, match="hp_space failed: ZeroDivisionError"):
        search(tiny.make(Trainer, tmp_path), lambda trial: {"learning_rate": 1 / 0})
    with pytest.raises(UserFunctionError, match="compute_objective failed"):
        search(tiny.make(Trainer, tmp_path / "b"), compute_objective=lambda m: m["eval_f1"])
    with pytest.raises(UserFunctionError, match=r"one value per direction, got 2 for \['minimize'\]"):
        search(tiny.make(Trainer, tmp_path / "c"), compute_objective=lambda m: (m["eval_loss"], 1.0))
    with pytest.raises(UserFunctionError, match="hp_name failed: KeyError: 'lr'"):
        search(tiny.make(Trainer, tmp_path / "d"), hp_name=lambda trial: trial.params["lr"])


def test_failing_trials_do_not_end_the_search(tmp_path):
    def init(trial=None):
        if trial is not None and trial.number == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return tiny.model_init()

    best = search(tiny.make(Trainer, tmp_path, init=init), n_trials=4)
    states = [t.state for t in best.run_summary.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAILED, TrialState.COMPLETE, TrialState.COMPLETE]
    assert best.run_summary.trials[1].reason.startswith("oom")
    assert "Tried to allocate" in best.run_summary.trials[1].detail


def test_several_objectives(tmp_path):
    trainer = tiny.make(Trainer, tmp_path, compute_metrics=tiny.accuracy)
    runs = trainer.hyperparameter_search(
        direction=["minimize", "maximize"],
        backend="optuna",
        hp_space=rates,
        n_trials=4,
        compute_objective=lambda m: [m["eval_loss"], m["eval_accuracy"]],
        progress=False,
    )
    assert isinstance(runs, list)
    assert all(len(r.objective) == 2 for r in runs)
    assert len(runs[0].run_summary.trials) == 4


def test_pruning_by_optunas_pruners(tmp_path):
    class Never(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.number > 0

    trainer = tiny.make(Trainer, tmp_path)
    best = search(trainer, backend="optuna", pruner=Never())
    states = [t.state for t in best.run_summary.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert best.run_id == "0"


def test_a_second_search_in_the_same_output_dir_has_a_folder_of_its_own(tmp_path):
    first = search(tiny.make(Trainer, tmp_path), n_trials=1).run_summary
    second = search(tiny.make(Trainer, tmp_path), n_trials=1).run_summary
    assert first.directory == tmp_path
    assert second.directory == tmp_path / "study-2"
    assert (second.directory / "run-0").is_dir()


def test_what_subclasses_and_callbacks_expect_during_a_trial(tmp_path):
    seen = []

    class Spy(TrainerCallback):
        def on_evaluate(self, args, state, control, **kwargs):
            seen.append((state.is_hyper_param_search, state.trial_name, dict(state.trial_params)))

    trainer = tiny.make(Trainer, tmp_path, callbacks=[Spy()], num_train_epochs=1)
    best = search(trainer, n_trials=2, hp_name=lambda trial: "mine" if trial.number else None)
    assert [s[:2] for s in seen] == [(True, "run-0"), (True, "mine")]
    assert seen[1][2] == dict(best.run_summary.trials[1].params)


def test_the_first_trial_is_the_users_own_setting_when_it_lies_in_the_space(tmp_path):
    best = search(tiny.make(Trainer, tmp_path, learning_rate=0.02), n_trials=2)
    assert best.run_summary.trials[0].params["learning_rate"] == 0.02


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"backend": "nevergrad"}, ValueError, "one of tunesmith, optuna"),
        ({"n_trails": 4}, ValueError, "unknown setting 'n_trails': backend 'tunesmith' takes pruner"),
        ({"backend": "optuna", "sampelr": 4}, ValueError, "did you mean 'sampler'?"),
        ({"keep_checkpoints": 0}, ValueError, "keep_checkpoints"),
        ({"direction": ["minimize", "minimize"]}, ValueError, "compute_objective"),
    ],
)
def test_bad_settings_are_refused_before_any_training(tmp_path, settings, error, text):
    trainer = tiny.make(Trainer, tmp_path)
    with pytest.raises(error, match=text):
        search(trainer, **settings)
    assert type(trainer) is Trainer


def test_upstreams_backend_enum_is_taken(tmp_path):
    best = search(tiny.make(Trainer, tmp_path), backend=transformers.trainer_utils.HPSearchBackend.OPTUNA, n_trials=1)
    assert math.isfinite(best.objective)


def test_datasets_put_in_place_after_construction_are_used_in_trials(tmp_path):
    sizes = []

    class Spy(TrainerCallback):
        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
            sizes.append(len(train_dataloader.dataset))

    trainer = tiny.make(Trainer, tmp_path, callbacks=[Spy()])
    trainer.train_dataset = tiny.Points(48, 2)
    trainer.eval_dataset = tiny.Points(32, 3)
    search(trainer, n_trials=2)
    search(trainer, n_trials=1)
    assert sizes == [48] * 3
    assert len(trainer.eval_dataset) == 32


def test_what_model_init_suggests_is_part_of_what_a_study_searches(tmp_path):
    def narrow(trial=None):
        return tiny.TinyModel(tiny.TinyConfig(hidden=8 if trial is None else trial.suggest_int("hidden", 4, 8)))

    def wide(trial=None):
        return tiny.TinyModel(tiny.TinyConfig(hidden=8 if trial is None else trial.suggest_int("hidden", 4, 16)))

    search(tiny.make(Trainer, tmp_path, init=narrow), n_trials=1, study="mine")
    with pytest.raises(ValueError, match=r"model_init was .*'hidden', 4, 8.*, now .*'hidden', 4, 16"):
        search(tiny.make(Trainer, tmp_path, init=wide), n_trials=2, study="mine", resume=True)
