"""The search of a Trainer's hyperparameters: what is checked before, how the search is conducted, what is handed back."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import transformers
from optuna.distributions import BaseDistribution
from transformers.trainer_utils import HPSearchBackend

from tunesmith import arguments, checkpoints, hyperparameters
from tunesmith.aliases import by_known_names
from tunesmith.backends import leaves_loop, preferred_runner
from tunesmith.best_run import BestRun, add_to_card
from tunesmith.conditional import COMPUTED
from tunesmith.conduct import (
    OwnLoop,
    Plan,
    as_callbacks,
    as_directions,
    check_enqueued,
    check_launched,
    conduct,
    tune_place,
)
from tunesmith.constraints import Constraints, Function
from tunesmith.errors import SettingError
from tunesmith.folders import leave_out_of_commits
from tunesmith.hp_space import Probe, as_space_function, default_space
from tunesmith.kept import Kept, KeptInFiles, KeptInMemory, Weights
from tunesmith.loop import Budget
from tunesmith.objective import Objective, SumWatch
from tunesmith.opening import Resume
from tunesmith.places import Places
from tunesmith.recipe import Recording, old_objects_aside
from tunesmith.runners import Runner
from tunesmith.runners.ranks import Ranks
from tunesmith.runners.slots import visible_gpus
from tunesmith.study import Study
from tunesmith.trainer import TrainerTask
from tunesmith.trial import Trial, contains, signs

Bests: TypeAlias = "BestRun | list[BestRun]"
_PRELOAD = ("torch", "transformers", "tunesmith.trainer_search")  # the fork server loads them once for all workers


class _Searching:
    """What a Trainer class gets: our search, and its result in the model card that goes to the Hub."""

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Bests:
        """Search the hyperparameters: see `tunesmith.hyperparameter_search`."""
        found: Any = self
        best = hyperparameter_search(found, *args, **kwargs)
        self._tunesmith_best = best[0] if isinstance(best, list) else best
        return best

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Push the model, as the Trainer does, and nothing of a study that lies in the same folder."""
        trainer: Any = self
        leave_out_of_commits(Path(trainer.args.output_dir))
        return super().push_to_hub(*args, **kwargs)  # type: ignore[misc]  # of the Trainer class beside it

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the model card, as the Trainer does; after a search, with how the hyperparameters were found."""
        trainer: Any = self
        super().create_model_card(*args, **kwargs)  # type: ignore[misc]  # of the Trainer class beside it
        best = getattr(self, "_tunesmith_best", None)
        path = Path(trainer.args.output_dir) / "README.md"
        if best is not None and trainer.is_world_process_zero() and path.is_file():
            add_to_card(path, best, task=_only(kwargs.get("tasks")), dataset=_only(kwargs.get("dataset")))


def _only(given: str | Sequence[str] | None) -> str | None:
    """The one name that was given."""
    names = [given] if isinstance(given, str) else list(given or ())
    return names[0] if len(names) == 1 else None


class Trainer(_Searching, transformers.Trainer, metaclass=Recording):
    """transformers.Trainer with tunesmith's `hyperparameter_search`; all else but what goes to the Hub is unchanged."""


def tunable(cls: type[transformers.Trainer]) -> type[transformers.Trainer]:
    """A subclass of any Trainer class that records its constructor's arguments and has our `hyperparameter_search`."""
    if isinstance(cls, Recording):
        return cls
    own: type = type(cls)  # sentence-transformers' classes have a metaclass, ours goes before it
    kind = Recording if issubclass(Recording, own) else type("Recording", (Recording, own), {})
    made: type[transformers.Trainer] = kind(
        cls.__name__,
        (_Searching, cls),
        {"__doc__": cls.__doc__, "__module__": cls.__module__},
    )
    return made


@by_known_names
def hyperparameter_search(
    trainer: transformers.Trainer,
    hp_space: Any = None,
    compute_objective: Callable[[dict[str, float]], Any] | None = None,
    n_trials: int | None = 20,
    direction: str | Sequence[str] = "minimize",
    backend: str | HPSearchBackend | None = None,
    hp_name: Callable[[Any], str | None] | None = None,
    *,
    study: str | None = None,
    directory: str | Path | None = None,
    resume: Resume = "auto",
    timeout: float | None = None,
    keep_checkpoints: checkpoints.Keep = None,
    max_failures: int | None = None,
    max_retries: int = 2,
    stop_when: Literal["converged"] | None = None,
    seed: int | None = None,
    enqueue: Sequence[Mapping[str, Any]] = (),
    callbacks: Sequence[Any] = (),
    strict: bool = False,
    progress: bool = True,
    constraints: Function | None = None,
    prune_metric: tuple[str, str] | None = None,
    compare_at: str = "share",
    workers: int | Literal["auto"] | None = None,
    threads_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
    ranks_per_trial: int | None = None,
    trial_timeout: float | None = None,
    runner: str | None = None,
    resources_per_trial: Mapping[str, Any] | None = None,
    join: bool = False,
    storage_url: str | None = None,
    **options: Any,
) -> Bests:
    """Search hyperparameters for any Trainer; positional arguments and defaults are those of transformers.

    Args:
        trainer: the Trainer; its model_init is called with each trial, or its model's weights are put back.
        hp_space: a function of the trial that suggests and returns hyperparameters, or a space as a dict (Optuna
            distributions, Ray Tune), a W&B sweep config or a SigOpt list. Default: as in transformers.
        compute_objective: metrics -> one number, or one per direction. Default: the metric named by
            `metric_for_best_model` where that is set, else as in transformers.
        n_trials: the total number of trials of the study, over all starts. None: until `timeout`.
        direction: "minimize", "maximize", or one per objective.
        backend: "tunesmith" (default) or another known one.
        hp_name: names a run in the loggers, None for `run-<number>`; directories are `run-<number>`.
        study: the study's name.
        directory: where it lies, default `args.output_dir`.
        resume: "auto" continues an unfinished study of the same space, directions and arguments; True also a finished
            one; False starts afresh, beside it.
        timeout: seconds of this start, after which the running trials are paused at their next step.
        keep_checkpoints: None leaves what the save settings leave; "best" or a number bounds the whole search.
        max_failures: failed trials that end the search; None: half of n_trials, at least 3, or the first 3 where they fail
            in the same way.
        max_retries: of a trial whose process was lost.
        stop_when: "converged" ends the search when no more is left to gain than what could be noise.
        seed: of the suggestions, kept with the study; None: a random one.
        enqueue: parameters to try first.
        callbacks: observers of the search.
        strict: a hyperparameter that nothing reads, or that has no effect, is an error, not a warning.
        progress: show the search.
        constraints: metrics -> one number, or several, that are to be at most 0: the best trial is among those that keep
            to them.
        prune_metric: (name, direction) for pruning with several objectives.
        compare_at: pruners compare trials at equal "share" of training, "step", "epoch" or "examples".
        workers: run trials in so many processes; "auto": one per GPU, else per `threads_per_trial` cores. None: in
            this process, one at a time; with `runner="ray"` as many as the cluster holds.
        threads_per_trial: CPU threads of each worker, default 1.
        gpus_per_trial: a share of a GPU for each worker, or 0; default: one, shared evenly when workers are more. Several:
            a trial runs on as many ranks, a GPU each, as under torchrun.
        ranks_per_trial: the ranks of each trial; with gpus_per_trial=0, or without GPUs, they train on the CPU.
        trial_timeout: seconds after which a trial of a worker, or on several ranks, is ended as failed.
        runner: "ray" runs the workers as Ray actors, "slurm" as Slurm jobs, each with `resources_per_trial`.
        resources_per_trial: such as {"cpu": 1, "gpu": 0.5}; for Slurm also {"timeout_min": 240, "slurm_partition": "gpu"}.
        join: several starts of the same script share the study: the first drives it, the others lend it their workers, and
            return the same result.
        storage_url: where checkpoints are copied to as well, such as "s3://bucket/search", for nodes that share no disk.
        options: for the backend, for Optuna: sampler, pruner, storage, study_name, load_if_exists; n_jobs is workers.
            gc_after_trial changes nothing, for memory is always freed, nor does catch (a warning says so): every
            failure is recorded and the search goes on, see max_failures.

    Returns: transformers' BestRun (a list of them, the Pareto set, with several directions); `run_summary` is the
    study, where Ray Tune drove the search Tune's own analysis, with `.study` beside it. Afterwards `trainer.model` is the best trial's model.

    Raises SettingError, SpaceError, UnknownBackendError or StudyChangedError (ValueErrors) for bad input and
    MissingDependencyError for a package that is not installed, before any training; StudyLockedError while another
    process drives the study, SearchFailedError when the trials fail, UserFunctionError for a bug in hp_space,
    compute_objective, constraints or hp_name.
    """
    name = backend.value if isinstance(backend, HPSearchBackend) else (backend or "tunesmith")
    alone = trainer.args.world_size == 1
    tuned = leaves_loop(name, options)
    if tuned:
        _check_tuned(trainer)
    if runner is None and alone:
        runner = preferred_runner(name)
    if not alone:
        check_launched(
            trainer.args.world_size,
            tuned=tuned,
            workers=workers,
            threads_per_trial=threads_per_trial,
            gpus_per_trial=gpus_per_trial,
            ranks_per_trial=ranks_per_trial,
            runner=runner,
        )
    places = Places(
        workers,
        threads_per_trial,
        gpus_per_trial,
        trial_timeout if alone else None,
        runner,
        resources_per_trial,
        ranks_per_trial,
    )
    places = _places(trainer, places, options)
    directions = as_directions(direction)
    if options.get("catch"):
        warnings.warn(
            f"catch is not used, got {options['catch']!r}: whatever a trial raises is recorded as its failure and the "
            "search goes on; max_failures=1 ends it at the first one",
            UserWarning,
            stacklevel=4,
        )
    objective = Objective.of(trainer, compute_objective, directions)
    known = frozenset(f.name for f in fields(trainer.args))
    function = as_space_function(default_space if hp_space is None else hp_space, known)
    tree = function.conditional
    probe = Probe.of(function)
    if tuned:
        _check_ranges(probe)
    sampled = {n: d[0] for n, d in probe.distributions.items()}
    disk = checkpoints.DiskWatch(checkpoints.checked_keep(keep_checkpoints), checkpoints.expected_size(trainer))
    alone_here = places.name == "inline" and constraints is None  # a trial itself knows whether it is the best so far
    kept: Kept = KeptInMemory() if alone_here else KeptInFiles(judged=constraints is not None)
    plan = Plan(
        directions=objective.directions,
        backend=name,
        options={k: v for k, v in options.items() if k not in ("n_jobs", "gc_after_trial", "catch")},
        directory=Path(directory or trainer.args.output_dir).absolute(),
        name=study if study is not None else options.get("study_name"),
        resume=resume,
        identity={
            "space": {n: " | ".join(map(str, d)) for n, d in sorted(probe.distributions.items())}
            if tree is None
            else tree.described(),
            "arguments": arguments.identity(trainer.args),
            "objective": objective.name,
            "model_init": arguments.suggestions(trainer.model_init),
        },
        functions={
            role: f
            for role, f in (
                ("hp_space", hp_space),
                ("compute_objective", compute_objective),
                ("model_init", trainer.model_init),
            )
            if callable(f) or (f is not None and role != "hp_space")
        },
        seed=seed,
        space=function.static,
        enqueue=[*_current(trainer, sampled, options), *(enqueue if tree is None else map(tree.point, enqueue))],
        budget=Budget(n_trials, timeout, max_failures, max_retries, stop_when),
        callbacks=[
            *([] if constraints is None else [Constraints(constraints)]),
            disk,
            kept,
            SumWatch(objective),
            *as_callbacks(callbacks),
        ],
        progress=progress,
        prune_metric=prune_metric,
        compare_at=compare_at,
        join=join,
        storage_url=storage_url,
        define=None if function.static is not None else function,
        written=function.written,
    )
    check_enqueued(plan.enqueue, probe.distributions, elsewhere=" ".join(plan.identity["model_init"]))
    task = TrainerTask(trainer, function, objective, backend=name, hp_name=hp_name, kept=kept, bars=not progress)
    hyperparameters.check(probe, trainer, task.recipe.kwargs, strict=strict)
    task.check()

    def place() -> Runner | OwnLoop:
        if tuned:
            return tune_place(plan, places, task, space=sampled, bare=[trainer])
        return places.make(task, preload=_PRELOAD, bare=[trainer])

    return _result(_conducted(plan, task, place, trial_timeout=trial_timeout))


def _conducted(
    plan: Plan, task: TrainerTask, place: Callable[[], Runner | OwnLoop], *, trial_timeout: float | None
) -> Study:
    """Conduct the search, and give the Trainer back with the best model, however the search ends."""
    trainer, kept, ranks = task.trainer, task.kept, Ranks.here()
    opened: list[Study] = []
    weights: Weights | None = None
    before = [trainer.model] if ranks is None and trainer.model_init is not None else []

    def begin(study: Study) -> None:
        opened.append(study)
        before.clear()

    try:
        task.leave_devices()
        with old_objects_aside(), _without_bars() if plan.progress else nullcontext():
            if ranks is None:
                conduct(plan, place(), prepare=begin)
            else:
                weights = _conduct_on(ranks, plan, task, opened, trial_timeout=trial_timeout)
    finally:  # also after a failure or Ctrl-C: the best so far is in hand
        best = _best(opened[0]) if opened else None
        checkpoint = None if best is None else opened[0].bring(best)
        if best is not None and ranks is None:
            weights = kept.take(opened[0].run_directory(best.number), best.number)
        task.give_back(best, checkpoint=checkpoint, weights=weights)
        if before:  # no trial has begun
            trainer.model = trainer.model_wrapped = before[0]
        # a training to come pushes its checkpoints from the same folder, and other classes' pushes are not ours
        if trainer.args.push_to_hub or not isinstance(trainer, _Searching):
            leave_out_of_commits(Path(trainer.args.output_dir))
    return opened[0]


def _conduct_on(
    ranks: Ranks, plan: Plan, task: TrainerTask, opened: list[Study], *, trial_timeout: float | None
) -> Weights | None:
    """Conduct the search on all ranks: each has the study afterwards, and the best weights that rank 0 kept in memory."""

    def lead(runner: Runner) -> tuple[Study, Weights | None]:
        study = conduct(plan, runner, prepare=opened.append)
        best = _best(study)
        return study, None if best is None else task.kept.take(study.run_directory(best.number), best.number)

    study, weights = ranks.run(task, lead, trial_timeout=trial_timeout)
    opened[:] = [study]
    return weights


@contextmanager
def _without_bars() -> Iterator[None]:
    """One view of the search, not one bar of transformers' for each checkpoint."""
    if not transformers.utils.logging.is_progress_bar_enabled():
        yield
        return
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.utils.logging.enable_progress_bar()


def _best(study: Study) -> Trial | None:
    """The best trial; when none has completed, the one that got farthest down (or up) by its last report."""
    if study.best_trials:
        return study.best_trials[0]
    partial = [t for t in study.trials if t.reports and all(math.isfinite(v) for v in t.reports[-1].values)]
    sign = signs(study.directions)[0]
    return min(partial, key=lambda t: sign * t.reports[-1].values[0], default=None)


def _result(study: Study) -> Bests:
    found, best = list(study.best_trials), _best(study)
    if not found:
        warnings.warn(f"no trial has completed: {study.summary()}", UserWarning, stacklevel=4)
        found = [] if best is None else [best]
    summary: Any = study
    if study.analysis is not None:  # as transformers gives it, with the study beside it
        summary = study.analysis
        summary.study = study
    runs = [
        BestRun(str(t.number), _objective_of(t.values or t.reports[-1].values), _hyperparameters(t), summary)
        for t in found
    ] or [BestRun("none", float("nan"), {}, summary)]
    return runs if len(study.directions) > 1 else runs[0]


def _hyperparameters(trial: Trial) -> dict[str, Any]:
    """What a trial was given, values that a space computes included."""
    return {**trial.params, **trial.attrs.get(COMPUTED, {})}


def _places(trainer: transformers.Trainer, places: Places, options: Mapping[str, Any]) -> Places:
    """Where the trials run, with Optuna's n_jobs as a number of workers."""
    if places.name == "ray":  # the cluster may have what this machine has not
        bare = places.resources_per_trial is not None and not {"gpu", "GPU"} & set(places.resources_per_trial)
    else:
        bare = places.gpus_per_trial == 0 or not visible_gpus()
    if places.ranks != 1 and not trainer.args.use_cpu and bare:
        raise SettingError(
            f"a Trainer on {places.ranks} ranks without a GPU needs TrainingArguments(use_cpu=True), got use_cpu=False: each "
            "rank would train alone"
        )
    n_jobs = options.get("n_jobs")
    if n_jobs in (None, 1) or places.workers == n_jobs:
        return places
    if places.workers is not None:
        raise SettingError(f"n_jobs means workers, got workers={places.workers!r} and n_jobs={n_jobs!r}; pass one")
    return replace(places, workers="auto" if n_jobs == -1 else n_jobs)


def _check_tuned(trainer: transformers.Trainer) -> None:
    """What Ray Tune's scheduler or search algorithm needs of a Trainer."""
    if str(getattr(trainer.args.eval_strategy, "value", trainer.args.eval_strategy)) == "no":
        raise SettingError(
            'eval_strategy must be "steps" or "epoch", so that Ray Tune learns how a trial does, got "no"; set it in the '
            "arguments"
        )


def _check_ranges(probe: Probe) -> None:
    """Ray Tune knows one range for each name."""
    for name, distributions in probe.distributions.items():
        if len(distributions) > 1:
            raise SettingError(
                f"a parameter has one range where Ray Tune's scheduler or search_alg drives the search, got "
                f'{" and ".join(map(str, distributions[:2]))} for "{name}"; give each range a name of its own, or leave those objects out'
            )


def _current(
    trainer: transformers.Trainer, space: Mapping[str, BaseDistribution], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The user's own arguments as the first trial, when they lie in the space and nothing of the user's decides."""
    params = {}
    for name, distribution in space.items():
        value = getattr(trainer.args, name, None)
        value = getattr(value, "value", value)  # enums
        if not hasattr(trainer.args, name) or not contains(distribution, value):
            return []
        params[name] = value
    decides = any(options.get(name) is not None for name in ("sampler", "search_alg"))
    return [] if decides or not params else [params]


def _objective_of(values: Sequence[float] | None) -> Any:
    numbers = list(values or ())
    return numbers if len(numbers) > 1 else numbers[0]
