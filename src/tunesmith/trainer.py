"""The Hugging Face side: `Trainer.hyperparameter_search`. The only file that touches private parts of transformers."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from optuna.distributions import BaseDistribution
from optuna.exceptions import TrialPruned
from transformers import TrainerCallback
from transformers.trainer_utils import BestRun, HPSearchBackend

from tunesmith import arguments, checkpoints
from tunesmith.conduct import Plan, as_directions, conduct
from tunesmith.errors import SettingError, UserFunctionError
from tunesmith.hp_space import Probe, SpaceFunction, as_space_function, default_space, replay
from tunesmith.kept import KeptModel
from tunesmith.loop import Budget
from tunesmith.objective import Objective
from tunesmith.recipe import Recipe, Recording, release
from tunesmith.runners import Outcome, checked
from tunesmith.runners.inline import InlineRunner
from tunesmith.study import Resume, Study
from tunesmith.trial import LiveTrial, TrialState, contains, signs

Bests: TypeAlias = "BestRun | list[BestRun]"


class Trainer(transformers.Trainer, metaclass=Recording):
    """transformers.Trainer with tunesmith's `hyperparameter_search`; everything else is unchanged."""

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Bests:
        """Search the hyperparameters: see `tunesmith.hyperparameter_search`."""
        return hyperparameter_search(self, *args, **kwargs)


def tunable(cls: type[transformers.Trainer]) -> type[transformers.Trainer]:
    """A subclass of any Trainer class that records its constructor's arguments and has our `hyperparameter_search`."""
    if isinstance(cls, Recording):
        return cls
    return Recording(
        cls.__name__,
        (cls,),
        {
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "hyperparameter_search": Trainer.hyperparameter_search,
        },
    )


def hyperparameter_search(
    trainer: transformers.Trainer,
    hp_space: Any = None,
    compute_objective: Callable[[dict[str, float]], Any] | None = None,
    n_trials: int = 20,
    direction: str | Sequence[str] = "minimize",
    backend: str | HPSearchBackend | None = None,
    hp_name: Callable[[Any], str] | None = None,
    *,
    study: str | None = None,
    directory: str | Path | None = None,
    resume: Resume = "auto",
    timeout: float | None = None,
    keep_checkpoints: checkpoints.Keep = None,
    max_failures: int | None = None,
    max_retries: int = 2,
    seed: int | None = None,
    enqueue: Sequence[Mapping[str, Any]] = (),
    callbacks: Sequence[Any] = (),
    strict: bool = False,
    progress: bool = True,
    prune_metric: tuple[str, str] | None = None,
    compare_at: str = "share",
    **options: Any,
) -> Bests:
    """Search hyperparameters for any Trainer; positional arguments and defaults are those of transformers.

    Args:
        trainer: the Trainer; its model_init is called with each trial, or its model's weights are put back.
        hp_space: a function of the trial that suggests and returns hyperparameters, or a space as a dict (Optuna
            distributions, Ray Tune), a W&B sweep config or a SigOpt list. Default: as in transformers.
        compute_objective: metrics -> one number, or one per direction. Default: the metric named by
            `metric_for_best_model` where that is set, else as in transformers.
        n_trials: the total number of trials of the study, over all starts.
        direction: "minimize", "maximize", or one per objective.
        backend: "tunesmith" (default) or another known one.
        hp_name: names a run in the loggers; directories are `run-<number>`.
        study: the study's name.
        directory: where it lies, default `args.output_dir`.
        resume: "auto" continues an unfinished study of the same space, directions and arguments; True also a finished
            one; False starts afresh, beside it.
        timeout: seconds, after which the running trial is paused at its next step.
        keep_checkpoints: None leaves what the save settings leave; "best" or a number bounds the whole search.
        max_failures: failed trials that end the search.
        max_retries: of a trial whose process was lost.
        seed: of the suggestions.
        enqueue: parameters to try first.
        callbacks: observers of the search.
        strict: a hyperparameter that nothing reads is an error, not a warning.
        progress: show the search.
        prune_metric: (name, direction) for pruning with several objectives.
        compare_at: pruners compare trials at equal "share" of training, "step", "epoch" or "examples".
        options: for the backend, for Optuna: sampler, pruner, storage, study_name, load_if_exists.

    Returns: transformers' BestRun (a list of them, the Pareto set, with several directions); `run_summary` is the
    study. Afterwards `trainer.model` is the best trial's model.

    Raises SettingError, SpaceError or UnknownBackendError (ValueErrors) for bad input before any training,
    SearchFailedError when the trials fail, UserFunctionError for a bug in hp_space or compute_objective.
    """
    name = backend.value if isinstance(backend, HPSearchBackend) else (backend or "tunesmith")
    _check_place(trainer, options)
    directions = as_directions(direction)
    objective = Objective.of(trainer, compute_objective, directions)
    function = as_space_function(default_space if hp_space is None else hp_space)
    probe = Probe.of(function)
    _check_names(probe, trainer, strict=strict)
    sampled = {n: d[0] for n, d in probe.distributions.items()}
    plan = Plan(
        directions=objective.directions,
        backend=name,
        options={k: v for k, v in options.items() if k not in ("n_jobs", "gc_after_trial", "catch")},
        directory=Path(directory or trainer.args.output_dir),
        name=study if study is not None else options.get("study_name"),
        resume=resume,
        identity={
            "space": {n: " | ".join(map(str, d)) for n, d in sorted(probe.distributions.items())},
            "arguments": arguments.identity(trainer.args),
            "objective": objective.name,
        },
        seed=seed,
        space=function.static,
        enqueue=[*_current(trainer, sampled, options), *enqueue],
        budget=Budget(n_trials, timeout, max_failures, max_retries),
        callbacks=callbacks,
        progress=progress,
        prune_metric=prune_metric,
        compare_at=compare_at,
    )
    search = _Search(
        trainer, function, objective, backend=name, hp_name=hp_name, keep=checkpoints.checked_keep(keep_checkpoints)
    )
    return search.run(plan)


class _Search:
    """One call of hyperparameter_search: runs the trials on the user's Trainer and gives it back with the best model."""

    def __init__(
        self,
        trainer: transformers.Trainer,
        space: SpaceFunction,
        objective: Objective,
        *,
        backend: str,
        hp_name: Callable[[Any], str] | None,
        keep: checkpoints.Keep,
    ) -> None:
        self.trainer = trainer
        self.space = space
        self.objective = objective
        self.keep = keep
        self.hp_name = hp_name or (lambda trial: f"run-{trial.number}")
        known = {b.value for b in HPSearchBackend}
        # what subclasses and callbacks may ask for: our trials are Optuna trials whichever backend proposed them
        self.hp_backend = HPSearchBackend(backend) if backend in known else HPSearchBackend.OPTUNA
        self.user_args = trainer.args
        self.user_class = type(trainer)
        self.recipe = Recipe.of(trainer)
        self.kept = KeptModel()
        self.study: Study | None = None
        self.live: LiveTrial | None = None
        self.made: tuple[Any, Any] | None = None
        self.disk_warned = False

    def run(self, plan: Plan) -> Bests:
        self.bars = not plan.progress
        bars = transformers.utils.logging.is_progress_bar_enabled()
        if plan.progress:  # one view of the search, not one bar for each checkpoint
            transformers.utils.logging.disable_progress_bar()
        self.trainer.__class__ = _in_trial(self.user_class, self)
        try:
            self._check_rebuild()
            release(self.trainer)
            study = conduct(plan, InlineRunner(self._run_trial), prepare=self._prepare)
            checkpoints.prune_disk(study, self.keep)  # the last trial's
        finally:
            self.live = None
            self._give_back()
            if bars:
                transformers.utils.logging.enable_progress_bar()
        return self._result(study)

    def _check_rebuild(self) -> None:
        """Make the Trainer anew once with the model at hand, so that one that cannot be is refused at once."""
        self.made = (self.trainer.model, None)
        try:
            self.recipe.rebuild(arguments.fresh(self.user_args, {}), fresh_callbacks=True, bars=self.bars)
        except Exception as error:
            raise SettingError(
                f"{self.user_class.__name__} must be made anew for each trial, which failed: {error}. Make it with "
                f"tunesmith.tunable({self.user_class.__name__})(...), or search with tunesmith.search and your own loop"
            ) from error
        finally:
            self.made = None

    def _prepare(self, study: Study) -> None:
        self.study = study
        for trial in study.trials:
            if not trial.state.finished:
                checkpoints.clear_torn(study, trial)

    # -- one trial -----------------------------------------------------------------------------------------------

    def _run_trial(self, live: LiveTrial) -> Outcome:
        self.live = live
        values = self.space(live)
        try:
            args = arguments.fresh(self.user_args, {k: v for k, v in values.items() if self._is_argument(k)})
        except SettingError as error:
            raise UserFunctionError(f"hp_space gave a value that cannot be: {error}") from error
        study = self._study()
        args.output_dir = str(study.directory)
        if args.run_name is None or "wandb" not in args.report_to:  # W&B names runs by trial, within a group run_name
            args.run_name = self.hp_name(live) if args.run_name is None else f"{args.run_name}-{self.hp_name(live)}"
        try:
            return self._train(live, args, values)
        finally:
            self.made = None
            release(self.trainer)

    def _train(self, live: LiveTrial, args: Any, values: Mapping[str, Any]) -> Outcome:
        trainer, study = self.trainer, self._study()
        self.recipe.restore_weights()
        self.recipe.rebuild(args, fresh_callbacks=True, bars=self.bars)
        for name, value in values.items():
            if not self._is_argument(name) and hasattr(trainer, name):
                setattr(trainer, name, value)
        trainer.hp_space, trainer.hp_name, trainer.hp_search_backend = self.space, self.hp_name, self.hp_backend
        trainer.objective, trainer.compute_objective, trainer._trial = None, self.objective, live  # noqa: SLF001
        trainer.add_callback(_Watch(live))
        stored = next(t for t in study.trials if t.number == live.number)
        resume = checkpoints.resumable(study, stored) if live.resume_from else None
        try:
            trainer.train(resume_from_checkpoint=None if resume is None else str(resume), trial=live)
        except BaseException:
            # loggers close their runs here; train() does not get that far
            trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
            raise
        decision = live.decide()
        if decision.action == "pause" and trainer.state.global_step < trainer.state.max_steps:
            return Outcome(TrialState.PAUSED, reason=decision.reason)
        self._project_disk(live.number)
        return self._outcome(live)

    def _outcome(self, live: LiveTrial) -> Outcome:
        """The objective of the checkpoint that is kept: the best one when it was loaded at the end, else the last."""
        trainer, study = self.trainer, self._study()
        state = trainer.state
        best = state.best_model_checkpoint if trainer.args.load_best_model_at_end else None
        step = checkpoints.step_of(Path(best)) if best else state.global_step
        if not any(r.step == step for r in live.reports):
            metrics = trainer.evaluate()
            self.report(metrics, final=True)
        report = next(r for r in reversed(live.reports) if r.step == step)
        outcome = checked(report.values, len(self.objective.directions))
        saved = Path(best) if best else checkpoints.run_directory(study, live.number) / f"checkpoint-{step}"
        kept = saved.resolve().relative_to(study.directory.resolve()) if saved.is_dir() else None
        if outcome.state is TrialState.COMPLETE and kept is None:
            self.kept.offer(live.number, outcome.values, self.objective.directions, trainer.model)
        return Outcome(
            outcome.state,
            outcome.values,
            reason=outcome.reason,
            metrics=dict(report.metrics),
            checkpoint=None if kept is None else str(kept),
        )

    def report(self, metrics: Mapping[str, float], *, final: bool = False) -> None:
        """Report an evaluation of the running trial; called by the Trainer."""
        live, trainer = self._live(), self.trainer
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
            metrics={k: float(v) for k, v in metrics.items() if isinstance(v, int | float)},
            epoch=state.epoch,
            examples=state.global_step * per_step,
            share=1.0 if final else (state.global_step / state.max_steps if state.max_steps else None),
        )
        if not final and live.decide().action == "prune":
            raise TrialPruned

    def saved(self, path: Path, step: int) -> None:
        """Record a checkpoint that was written whole, and bound the disk; called by the Trainer."""
        self._live().save_checkpoint(str(path), step)
        checkpoints.prune_disk(self._study(), self.keep)

    def _project_disk(self, number: int) -> None:
        """Warn, once, when the trials to come will not fit the disk if each leaves what this one did."""
        study = self._study()
        total = study.info.settings.get("n_trials")
        if self.keep is not None or self.disk_warned or total is None:
            return
        to_come = total - sum(t.state.finished for t in study.trials) - 1
        left_behind = checkpoints.size([checkpoints.run_directory(study, number)])
        short = checkpoints.shortage(study.directory, left_behind * max(0, to_come))
        if short is not None:
            self.disk_warned = True
            warnings.warn(short, UserWarning, stacklevel=2)

    def model_for(self, live: LiveTrial | None) -> Any:
        """The model of the running trial: made once, in the constructor, and handed to train() with the same RNG state."""
        if self.made is None:
            model = self.user_class.call_model_init(self.trainer, live)
            self.made = (model, _rng_state())
        model, rng = self.made
        if rng is not None:
            _set_rng_state(rng)
        return model

    # -- the end -------------------------------------------------------------------------------------------------

    def _give_back(self) -> None:
        """Make the user's Trainer what it was, with the best trial's model in it."""
        trainer, study = self.trainer, self.study
        best = study.best_trials[0] if study is not None and study.best_trials else None
        path = study.checkpoint(best) if study is not None and best is not None else None
        self.recipe.restore_weights()
        # a model_init that suggests gets the best trial's suggestions again
        self.live = None if best is None else replay(best)
        try:
            self.recipe.rebuild(self.user_args, fresh_callbacks=False, bars=True)
        finally:
            self.live, self.made = None, None
            trainer.__class__ = self.user_class
        if best is None:
            return
        if path is not None:
            trainer._load_from_checkpoint(str(path))  # noqa: SLF001
        else:
            self.kept.load_into(trainer.model, best.number)

    def _result(self, study: Study) -> Bests:
        if study.best_trials:
            runs = [BestRun(str(t.number), _objective_of(t.values), dict(t.params), study) for t in study.best_trials]
            return runs if len(study.directions) > 1 else runs[0]
        warnings.warn(f"no trial has completed: {study.summary()}", UserWarning, stacklevel=4)
        partial = [t for t in study.trials if t.reports and all(math.isfinite(v) for v in t.reports[-1].values)]
        if not partial:
            nothing = BestRun("none", float("nan"), {}, study)
            return [nothing] if len(study.directions) > 1 else nothing
        sign = signs(study.directions)[0]
        best = min(partial, key=lambda t: sign * t.reports[-1].values[0])
        run = BestRun(str(best.number), _objective_of(best.reports[-1].values), dict(best.params), study)
        return [run] if len(study.directions) > 1 else run

    def _is_argument(self, name: str) -> bool:
        return hasattr(self.user_args, name.partition(".")[0])

    def _study(self) -> Study:
        if self.study is None:
            raise RuntimeError("the study is open while trials run")
        return self.study

    def _live(self) -> LiveTrial:
        if self.live is None:
            raise RuntimeError("a trial is running while it reports")
        return self.live


class _Watch(TrainerCallback):
    """Ends training at the next step, with a checkpoint, when the study wants to pause."""

    def __init__(self, live: LiveTrial) -> None:
        self.live = live

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.live.decide().action == "pause" and state.global_step < state.max_steps:
            control.should_training_stop = True
            control.should_save = control.should_save or str(getattr(args.save_strategy, "value", "no")) != "no"


def _in_trial(cls: type, search: _Search) -> type:
    """The user's Trainer class with what a trial needs; the Trainer is of this class during the search only."""

    class InTrial(cls):
        def call_model_init(self, trial: Any = None) -> Any:  # noqa: ARG002  the running trial is known
            return search.model_for(search.live)

        def _hp_search_setup(self, trial: Any) -> None:
            self._trial = trial  # the arguments are those of the trial already

        def _get_output_dir(self, trial: Any) -> str:
            if trial is None or search.study is None:
                return str(super()._get_output_dir(trial))
            return str(checkpoints.run_directory(search.study, trial.number))

        def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:  # noqa: ARG002
            if trial is not None:
                search.report(metrics)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            super()._save_checkpoint(model, trial)
            if trial is not None:
                step = self.state.global_step
                search.saved(Path(self._get_output_dir(trial)) / f"checkpoint-{step}", step)

    InTrial.__name__, InTrial.__qualname__, InTrial.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return InTrial


def _check_place(trainer: transformers.Trainer, options: Mapping[str, Any]) -> None:
    if trainer.args.world_size > 1:
        raise SettingError(
            f"a search runs in one process for now, got {trainer.args.world_size} ranks; start it without torchrun"
        )
    if options.get("n_jobs", 1) not in (None, 1):
        raise SettingError(
            f"n_jobs must be 1, got {options['n_jobs']}: trials would share this process, and threads corrupt each "
            "other's training"
        )


def _check_names(probe: Probe, trainer: transformers.Trainer, *, strict: bool) -> None:
    """Every hyperparameter takes effect, or is reported before the first trial."""
    for values in probe.values:
        arguments.fresh(trainer.args, {k: v for k, v in values.items() if hasattr(trainer.args, k.partition(".")[0])})
    unknown = arguments.unknown_names(probe.names, trainer.args, trainer, trainer.model_init)
    if unknown:
        listed = ", ".join(f"{n!r}" + (f" (did you mean {near!r}?)" if near else "") for n, near in unknown.items())
        message = (
            f"hyperparameters must be read by TrainingArguments, the Trainer or model_init, and nothing reads {listed}"
        )
        if strict:
            raise SettingError(message)
        warnings.warn(message, UserWarning, stacklevel=3)


def _current(
    trainer: transformers.Trainer, space: Mapping[str, BaseDistribution], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The user's own arguments as the first trial, when they lie in the space and no sampler of the user's decides."""
    params = {}
    for name, distribution in space.items():
        value = getattr(trainer.args, name, None)
        value = getattr(value, "value", value)  # enums
        if not hasattr(trainer.args, name) or not contains(distribution, value):
            return []
        params[name] = value
    return [] if options.get("sampler") is not None or not params else [params]


def _objective_of(values: Sequence[float] | None) -> Any:
    numbers = list(values or ())
    return numbers if len(numbers) > 1 else numbers[0]


def _rng_state() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002  transformers seeds it


def _set_rng_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])
