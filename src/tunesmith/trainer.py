"""The Hugging Face side: one trial of a Trainer, wherever it runs. The only file that touches private parts of transformers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from optuna.exceptions import TrialPruned
from transformers import TrainerCallback
from transformers.integrations import rewrite_logs
from transformers.trainer_utils import HPSearchBackend

from tunesmith import arguments, checkpoints, inheritance, process_state
from tunesmith.errors import SettingError, UserFunctionError
from tunesmith.folders import step_of
from tunesmith.hp_space import SpaceFunction, note_given, replay
from tunesmith.kept import Kept, Weights
from tunesmith.objective import Objective
from tunesmith.prepared_data import prepare_once
from tunesmith.recipe import Recipe, release
from tunesmith.refusal import refuse_use
from tunesmith.runners import Outcome, checked, disk_full
from tunesmith.scalars import floats
from tunesmith.trial import LiveTrial, Trial, TrialState, signs


class TrainerTask:
    """The trials of one Trainer, wherever they run: called with a live trial, it trains and says how the trial ended.

    Each trial gets the Trainer made anew, in place. Nothing is decided here: whether to go on, to stop or to pause is
    asked of the live trial (`report`, `decide`), so that it may run on several ranks that must agree.

    It can be pickled with its Trainer as a bare instance: elsewhere the recipe makes that one a Trainer.
    """

    def __init__(
        self,
        trainer: transformers.Trainer,
        space: SpaceFunction,
        objective: Objective,
        *,
        backend: str,
        hp_name: Callable[[Any], str | None] | None,
        kept: Kept,
        bars: bool,
    ) -> None:
        self.trainer = trainer
        self.space = space
        self.objective = objective
        if not (hp_name is None or callable(hp_name)):
            raise SettingError(f"hp_name must be a function of the trial that gives a name, got {hp_name!r}")
        self.hp_name = partial(_name, hp_name)
        # transformers 4 asks a trial of SigOpt's for `assignments`, which Optuna's have not
        known = {b.value for b in HPSearchBackend} - {"sigopt"}
        # what subclasses and callbacks may ask for: our trials are Optuna trials whichever backend proposed them
        self.hp_backend = HPSearchBackend(backend) if backend in known else HPSearchBackend.OPTUNA
        self.bars = bars
        self.user_args = trainer.args
        self.user_class = type(trainer)
        self.recipe = Recipe.of(trainer)
        self.kept = kept
        self._begin()

    def _begin(self) -> None:
        self._trial_class = _in_trial(self.user_class, self)
        self._live: LiveTrial | None = None
        self._made: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What makes the task elsewhere, by the names that users know."""
        own = {"backend": self.hp_backend, "kept": self.kept, "class": self.user_class}
        return {
            **self.recipe.__getstate__(),
            "args": _without_devices(self.user_args),
            "hp_space": self.space,
            "compute_objective": self.objective,
            "hp_name": self.hp_name.args[0],
            "tunesmith": own,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        transformers.utils.logging.disable_progress_bar()  # of a process without a screen
        own = state.pop("tunesmith")
        self.hp_backend, self.kept, self.user_class = own["backend"], own["kept"], own["class"]
        self.hp_name, self.objective = partial(_name, state.pop("hp_name")), state.pop("compute_objective")
        self.space, self.user_args, self.bars = state.pop("hp_space"), state.pop("args"), False
        _ = self.user_args.device  # found here, and kept in them
        self.recipe = object.__new__(Recipe)
        self.recipe.__setstate__(state)
        self.trainer = self.recipe.trainer
        self._begin()

    def check(self) -> None:
        """Make a Trainer like the user's once, with the model at hand, so that one that cannot be is refused at once."""
        self._made = (self.trainer.model, None)
        try:
            trial_trainer: transformers.Trainer = object.__new__(self._trial_class)
            args = arguments.fresh(self.user_args, {})
            self.recipe.rebuild(trial_trainer, args, fresh_callbacks=True, bars=self.bars)
            self.recipe.compare(trial_trainer)
        except Exception as error:
            raise SettingError(
                f"{self.user_class.__name__} must be made anew for each trial, which failed: {error}. Make it with "
                f"tunesmith.tunable({self.user_class.__name__})(...), or search with tunesmith.search and your own loop"
            ) from error
        finally:
            self._made = None

    def leave_devices(self) -> None:
        """Free what the Trainer holds on GPUs and in memory, before trials run elsewhere."""
        model = self.recipe.kwargs.get("model")
        if model is not None:
            self.recipe.restore_weights()
            model.to("cpu")
        release(self.trainer)

    def give_back(self, best: Trial | None, *, checkpoint: Path | None, weights: Weights | None) -> None:
        """Make the Trainer what it was before the search, with the best trial's model from its checkpoint or weights."""
        self.recipe.restore_weights()
        # a model_init that suggests gets the best trial's suggestions again
        self._live = None if best is None else replay(best, self.space)
        self.trainer.__class__ = self._trial_class
        try:
            self.recipe.rebuild(self.trainer, self.user_args, fresh_callbacks=False, bars=True)
        finally:
            self._live, self._made = None, None
            self.trainer.__class__ = self.user_class
        if best is None:
            if self.recipe.found is not None:
                self.trainer.model.load_state_dict(self.recipe.found, strict=False)
            elif self.recipe.weights is None:
                refuse_use(
                    self.trainer.model, "no trial has come to an evaluation: the model is a new one of model_init's"
                )
        elif checkpoint is not None:
            _load_weights(self.trainer, checkpoint)
        elif weights is not None:
            self.trainer.model.load_state_dict(weights, strict=False)
        else:
            refuse_use(
                self.trainer.model,
                f"the weights of the best trial ({best.number}) were not saved: its training saved no checkpoint of its "
                "best evaluation. Set save_strategy (as eval_strategy) and search again, or train with the best "
                "hyperparameters",
            )
        self.recipe.remember_start()

    # -- one trial -----------------------------------------------------------------------------------------------

    def __call__(self, live: LiveTrial) -> Outcome:
        """Run one trial to its end. Raises TrialPruned when it is to stop, and what fails in training."""
        with process_state.own_environment(self.user_args):
            return self._run(live)

    def _run(self, live: LiveTrial) -> Outcome:
        self._live = live
        values = self.space(live)
        try:
            args = arguments.fresh(self.user_args, {k: v for k, v in values.items() if self._is_argument(k)})
        except SettingError as error:
            raise UserFunctionError(f"hp_space gave a value that cannot be: {error}") from error
        note_given(live, values)
        args.output_dir = str(live.directory.parent)
        args.push_to_hub = False  # it would push that folder with all trials, at each checkpoint, and bad models too
        try:
            name = self.hp_name(live)  # W&B names runs so too, by state.trial_name, in a group of the study's directory
        except Exception as error:
            raise UserFunctionError(f"hp_name failed: {type(error).__name__}: {error}") from error
        args.run_name = name if args.run_name is None else f"{args.run_name}-{name}"
        if live.save_each_report:
            _save_at_evaluations(args)
        self.trainer.__class__ = self._trial_class
        try:
            return self._train(live, args, values)
        finally:
            self._live, self._made = None, None
            _close_wandb(self.trainer)
            release(self.trainer)

    def _train(self, live: LiveTrial, args: Any, values: Mapping[str, Any]) -> Outcome:
        trainer = self.trainer
        self.recipe.restore_weights()
        self.recipe.rebuild(trainer, args, fresh_callbacks=True, bars=self.bars)
        for name, value in values.items():
            if not self._is_argument(name) and arguments.is_setting(trainer, name):
                setattr(trainer, name, value)
        trainer.hp_space, trainer.hp_name, trainer.hp_search_backend = self.space, self.hp_name, self.hp_backend
        trainer.objective, trainer.compute_objective, trainer._trial = None, self.objective, live  # noqa: SLF001
        trainer.add_callback(_Watch(live))
        if live.logs:
            trainer.add_callback(_Logs(live, trainer))
        anew = args.save_only_model and not live.inherited  # from weights alone the schedule would begin a second time
        resume = live.resume_from and checkpoints.resumable(Path(live.resume_from), schedule=anew)
        if resume and live.inherited:
            inheritance.forget_past(resume, train_batch_size=args.train_batch_size)
        _name_cpu(args)
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None, trial=live)
        except BaseException as error:
            full = disk_full(error, live.directory)
            checkpoints.clear_half_written(live.directory)  # room for the record, where the disk is full
            # loggers close their runs here; train() does not get that far
            trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
            if full is not None:
                raise full from error
            raise
        decision = live.decide()
        if decision.action == "pause" and trainer.state.global_step < trainer.state.max_steps:
            if not live.reports:  # outside training: neither the best checkpoint nor the schedule hears of it
                self.report(trainer.evaluate())
            return Outcome(TrialState.PAUSED, reason=decision.reason)
        return self._outcome(live)

    def _outcome(self, live: LiveTrial) -> Outcome:
        """The objective of the checkpoint that is kept: the best one when it was loaded at the end, else the last."""
        trainer = self.trainer
        state = trainer.state
        best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        step = step_of(Path(best)) if best else state.global_step
        if not any(r.step == step for r in live.reports):
            metrics = trainer.evaluate()
            self.report(metrics, final=True)
        report = next(r for r in reversed(live.reports) if r.step == step)
        outcome = checked(report.values, len(self.objective.directions))
        saved = Path(best) if best else live.directory / f"checkpoint-{step}"
        study = live.directory.parent.resolve()
        kept = saved.resolve().relative_to(study) if saved.is_dir() else None
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled  # no rank has the whole model
        if outcome.state is TrialState.COMPLETE and kept is None and trainer.is_world_process_zero() and not sharded:
            losses = tuple(s * v for s, v in zip(signs(self.objective.directions), report.values, strict=True))
            self.kept.offer(live, losses, trainer.model)
        return Outcome(
            outcome.state,
            outcome.values,
            reason=outcome.reason,
            metrics=dict(report.metrics),
            checkpoint=None if kept is None else str(kept),
        )

    def _is_argument(self, name: str) -> bool:
        return hasattr(self.user_args, name.partition(".")[0])

    # -- what the Trainer calls while a trial runs ---------------------------------------------------------------

    @property
    def live(self) -> LiveTrial:
        """The running trial."""
        if self._live is None:
            raise RuntimeError("a trial is running while its Trainer asks for it")
        return self._live

    def report(self, metrics: Mapping[str, float], *, final: bool = False) -> None:
        """Report an evaluation of the running trial."""
        live, trainer = self.live, self.trainer
        try:
            values = self.objective(dict(metrics))
        except Exception as error:
            raise UserFunctionError(f"compute_objective failed on {dict(metrics)}: {error!r}") from error
        trainer.objective = values
        state, args = trainer.state, trainer.args
        per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        live.report(
            values,
            state.global_step,
            metrics=floats(metrics),
            epoch=state.epoch,
            examples=state.global_step * per_step,
            share=1.0 if final else (state.global_step / state.max_steps if state.max_steps else None),
        )
        if not final and live.decided.action == "prune":
            raise TrialPruned

    def model(self) -> Any:
        """The model of the running trial: made once, in the constructor, and handed to train() with the same RNG state."""
        if self._made is None:
            model = self.user_class.call_model_init(self.trainer, self._live)
            self._made = (model, _rng_state())
        model, rng = self._made
        if rng is not None:
            _set_rng_state(rng)
        return model


def _name(hp_name: Callable[[Any], str | None] | None, trial: Any) -> str:
    """What a trial's run is called, `run-<number>` where the user's function gives no name."""
    name = None if hp_name is None else hp_name(trial)
    return f"run-{trial.number}" if name is None else str(name)


def _close_wandb(trainer: transformers.Trainer) -> None:
    """End the trial's run of W&B, which transformers leaves open until the next one begins."""
    for callback in _logging_to_wandb(trainer):
        callback._wandb.finish()  # noqa: SLF001
        callback._initialized = False  # noqa: SLF001


def _logging_to_wandb(trainer: transformers.Trainer) -> list[Any]:
    """The Trainer's own callbacks for W&B that have a run open."""
    handler = vars(trainer).get("callback_handler")
    callbacks = [] if handler is None else handler.callbacks
    return [c for c in callbacks if getattr(getattr(c, "_wandb", None), "run", None) is not None]


class _Watch(TrainerCallback):
    """Ends training at the next step, with a checkpoint, when the study wants to pause."""

    def __init__(self, live: LiveTrial) -> None:
        self.live = live
        self._paused = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.live.decide().action == "pause" and state.global_step < state.max_steps:
            self._paused = control.should_training_stop = True
            control.should_save = control.should_save or str(getattr(args.save_strategy, "value", "no")) != "no"
            args.save_only_model = False  # to go on from

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002  callbacks get them
        """An epoch that the pause cuts short has no evaluation: an uninterrupted trial would not have had it either."""
        if self._paused and not float(state.epoch).is_integer():
            control.should_evaluate = control.should_save = control.should_log = False


class _Logs(TrainerCallback):
    """Hands on what the Trainer logs, under the names that its own callback for W&B gives."""

    def __init__(self, live: LiveTrial, trainer: transformers.Trainer) -> None:
        self.live = live
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if any(not c._wandb.run.disabled for c in _logging_to_wandb(self.trainer)):  # noqa: SLF001
            return  # that one writes to the trial's run itself
        metrics = {**rewrite_logs(logs or {}), "train/global_step": state.global_step}
        self.live.log(metrics, state.global_step)


def _in_trial(cls: type, task: TrainerTask) -> type:
    """The user's Trainer class with what a trial needs; the Trainer is of this class during the search only."""

    class InTrial(cls):
        def call_model_init(self, trial: Any = None) -> Any:  # noqa: ARG002  the running trial is known
            return task.model()

        def _hp_search_setup(self, trial: Any) -> None:
            self._trial = trial  # the arguments are those of the trial already

        def _get_output_dir(self, trial: Any) -> str:
            return str(super()._get_output_dir(trial) if trial is None else task.live.directory)

        def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:  # noqa: ARG002
            if trial is not None:
                task.report(metrics)

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if not task.live.inherited:
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            wanted = inheritance.settings(self.optimizer, self.lr_scheduler)
            super()._load_optimizer_and_scheduler(checkpoint)
            inheritance.apply(wanted, self.optimizer, self.lr_scheduler)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            if trial is None:
                super()._save_checkpoint(model, trial)
                return
            with _nothing_removed(self.args):  # before the new one is recorded: a kill could leave none to go on from
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # it is whole when every rank has saved its part
            step = self.state.global_step
            task.live.save_checkpoint(str(task.live.directory / f"checkpoint-{step}"), step)
            _remove_old_checkpoints(self, str(task.live.directory))

    prepare_once(InTrial)
    kind: Any = InTrial
    kind.__name__, kind.__qualname__, kind.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return InTrial


def _save_at_evaluations(args: Any) -> None:
    """Have each evaluation followed by a checkpoint; only the newest is kept where none were wanted."""
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
        args.save_total_limit = 1
    args.save_strategy, args.save_steps = type(args.save_strategy)(args.eval_strategy.value), args.eval_steps


@contextmanager
def _nothing_removed(args: Any) -> Iterator[None]:
    """Let transformers save a checkpoint without removing older ones."""
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        yield
    finally:
        args.save_total_limit = limit


def _remove_old_checkpoints(trainer: Any, run: str) -> None:
    """Keep to `save_total_limit`, as transformers does itself at the end of each saving."""
    if not trainer.args.should_save:
        return
    if hasattr(trainer, "_rotate_checkpoints"):  # transformers 4
        trainer._rotate_checkpoints(use_mtime=True, output_dir=run)  # noqa: SLF001
        return
    transformers.trainer.rotate_checkpoints(
        output_dir=run,
        save_total_limit=trainer.args.save_total_limit,
        best_model_checkpoint=trainer.state.best_model_checkpoint,
        use_mtime=True,
    )


def _without_devices(args: Any) -> Any:
    """A copy of the arguments that has yet to find its devices."""
    result = arguments.fresh(args, {})
    for name in ("_setup_devices", "__cached__setup_devices", "distributed_state", "_n_gpu"):  # 5.x, 4.x, both
        vars(result).pop(name, None)
    return result


def _load_weights(trainer: Any, checkpoint: Path) -> None:
    """Load the best trial's weights, after a search of which nothing else may be lost when that fails."""
    try:
        if trainer.is_deepspeed_enabled and not checkpoints.gathered(checkpoint):  # ZeRO 3
            import deepspeed  # noqa: PLC0415  an optional package
            from deepspeed.utils import zero_to_fp32  # noqa: PLC0415

            state = zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))
            with deepspeed.zero.GatheredParameters(list(trainer.model.parameters()), modifier_rank=0):
                trainer.model.load_state_dict(state, strict=False)
        else:
            trainer._load_from_checkpoint(str(checkpoint))  # noqa: SLF001
    except Exception as error:  # noqa: BLE001  whatever a format raises, the result of the search is at hand
        message = f"the best trial's weights are in {checkpoint} and could not be loaded from there: {error}"
        warnings.warn(message, UserWarning, stacklevel=2)
        refuse_use(trainer.model, message)


def _name_cpu(args: Any) -> None:
    """Let the CPU of a rank be "cpu": accelerate numbers it, and torch cannot load a checkpoint to "cpu:0"."""
    if args.device.type == "cpu":
        for name in {"_setup_devices", "__cached__setup_devices"} & {*vars(args)}:  # transformers 5 and 4
            vars(args)[name] = torch.device("cpu")


def _rng_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002  transformers seeds it


def _set_rng_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])
