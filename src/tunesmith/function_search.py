"""Search the parameters of any function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tunesmith.aliases import by_known_names
from tunesmith.backends import leaves_loop, preferred_runner
from tunesmith.conditional import Conditional
from tunesmith.conduct import (
    Plan,
    as_callbacks,
    as_directions,
    check_enqueued,
    check_launched,
    conduct,
    describe,
    tune_place,
)
from tunesmith.constraints import Constraints, Function
from tunesmith.loop import Budget
from tunesmith.opening import Resume
from tunesmith.places import Places
from tunesmith.runners import Outcome
from tunesmith.runners.ranks import Ranks
from tunesmith.settings_text import nested
from tunesmith.space import as_function, parse_space
from tunesmith.study import Study
from tunesmith.trial import LiveTrial


@by_known_names
def search(
    objective: Callable[[LiveTrial], Outcome | float | Sequence[float]],
    n_trials: int | None = 20,
    *,
    direction: str | Sequence[str] = "minimize",
    space: Any = None,
    backend: str = "tunesmith",
    study: str | None = None,
    directory: str | Path = "tunesmith-studies",
    resume: Resume = "auto",
    timeout: float | None = None,
    max_failures: int | None = None,
    max_retries: int = 2,
    stop_when: Literal["converged"] | None = None,
    seed: int | None = None,
    enqueue: Sequence[Mapping[str, Any]] = (),
    callbacks: Sequence[Any] = (),
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
) -> Study:
    """Find the parameters for which `objective(trial)` is best.

    Args:
        objective: asks for parameters (`trial.suggest_float` ...), may `trial.report(value, step)` and stop when
            `trial.should_prune()`, and returns one number, or one per direction.
        n_trials: the total number of trials of the study, over all starts. None: until `timeout`.
        direction: "minimize", "maximize", or one per objective.
        space: a dict (Optuna distributions, Ray Tune's domains, also choices among dicts with domains of their own), a W&B
            sweep config or a SigOpt list: the parameters are in `trial.params` from the start, and in `trial.config` as
            nested dicts. None: those that the objective asks for.
        backend: "tunesmith" or another known one.
        study: the study's name.
        directory: where it lies.
        resume: "auto" continues an unfinished study of the same objective, space and directions; True also a finished
            one; False starts afresh, beside it.
        timeout: seconds of this start, after which the running trials are paused at their next report.
        max_failures: failed trials that end the search; None: half of n_trials, at least 3, or the first 3 where they fail
            in the same way.
        max_retries: of a trial whose process was lost.
        stop_when: "converged" ends the search when no more is left to gain than what could be noise.
        seed: of the suggestions, kept with the study; None: a random one.
        enqueue: parameters to try first.
        callbacks: observers of the search.
        progress: show the search.
        constraints: metrics -> one number, or several, that are to be at most 0, from what a completed trial reported last
            or returned: the best trial is among those that keep to them.
        prune_metric: (name, direction) for pruning with several objectives.
        compare_at: pruners compare trials at equal "share" of training, "step", "epoch" or "examples".
        workers: run trials in so many processes; "auto": one per GPU, else per `threads_per_trial` cores. None: in
            this process, one at a time; with `runner="ray"` as many as the cluster holds.
        threads_per_trial: CPU threads of each worker, default 1.
        gpus_per_trial: a share of a GPU for each worker, or 0; default: one, shared evenly when workers are more. Several:
            a trial runs on as many ranks, a GPU each.
        ranks_per_trial: the ranks of each trial: processes that each call the objective with the environment that torchrun
            would give them; with gpus_per_trial=0, or without GPUs, on the CPU.
        trial_timeout: seconds after which a trial of a worker, or on several ranks, is ended as failed.
        runner: "ray" runs the workers as Ray actors, "slurm" as Slurm jobs, each with `resources_per_trial`.
        resources_per_trial: such as {"cpu": 1, "gpu": 0.5}; for Slurm also {"timeout_min": 240, "slurm_partition": "gpu"}.
        join: several starts of the same script share the study: the first drives it, the others lend it their workers, and
            return the same study.
        storage_url: where checkpoints are copied to as well, such as "s3://bucket/search", for nodes that share no disk.
        options: for the backend.

    Returns: the study.

    Raises SettingError, SpaceError, UnknownBackendError or StudyChangedError (ValueErrors) for bad input and
    MissingDependencyError for a package that is not installed, before any work starts; StudyLockedError while another
    process drives the study, SearchFailedError when the trials fail, UserFunctionError for a bug in constraints.
    """
    tree = Conditional.of(space)
    static = None if space is None or tree is not None else parse_space(space)
    every = static if tree is None else tree.every
    define = tree if static is None else as_function(static)

    def task(trial: LiveTrial) -> Outcome | float | Sequence[float]:
        if define is not None:
            trial.config = nested(define(trial))
        return objective(trial)

    name = f"{getattr(objective, '__module__', '')}.{getattr(objective, '__qualname__', type(objective).__name__)}"
    plan = Plan(
        directions=as_directions(direction),
        backend=backend,
        options=options,
        directory=Path(directory).absolute(),  # a trial may change the working directory
        name=study,
        resume=resume,
        identity={"objective": name, "space": describe(static) if tree is None else tree.described()},
        functions={"objective": objective},
        seed=seed,
        space=static,
        define=tree,
        written=None if tree is not None else space,
        enqueue=enqueue if tree is None else [tree.point(p) for p in enqueue],
        budget=Budget(n_trials, timeout, max_failures, max_retries, stop_when),
        callbacks=[*([] if constraints is None else [Constraints(constraints)]), *as_callbacks(callbacks)],
        progress=progress,
        prune_metric=prune_metric,
        compare_at=compare_at,
        join=join,
        storage_url=storage_url,
    )
    if enqueue and every is not None:
        check_enqueued(plan.enqueue, {name: [d] for name, d in every.items()})
    ranks = Ranks.here()
    if ranks is not None:
        check_launched(
            ranks.group.size,
            tuned=leaves_loop(backend, options),
            workers=workers,
            threads_per_trial=threads_per_trial,
            gpus_per_trial=gpus_per_trial,
            ranks_per_trial=ranks_per_trial,
            runner=runner,
        )
        return ranks.run(task, lambda place: conduct(plan, place), trial_timeout=trial_timeout)
    where = runner or preferred_runner(backend)
    places = Places(
        workers, threads_per_trial, gpus_per_trial, trial_timeout, where, resources_per_trial, ranks_per_trial
    )
    if leaves_loop(backend, options):
        return conduct(plan, tune_place(plan, places, task, space=every))
    return conduct(plan, places.make(task))
