"""The backend "wandb": W&B's sweeps propose (or host what the embedded engine proposes), and each trial is a W&B run."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tunesmith.backends import Halt, Proposal, Setting
from tunesmith.backends.engine import EngineBackend
from tunesmith.backends.known import drawn, nearest, seen_space
from tunesmith.backends.wandb_runs import CLOSING, Runs
from tunesmith.backends.wandb_sweep import DownError, Given, Sweep
from tunesmith.errors import MissingDependencyError, SettingError
from tunesmith.space import to_wandb
from tunesmith.tracing import trace
from tunesmith.trial import Decision, Params, Space, Trial, TrialState, contains

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

MODES = ("service", "scheduler", "offline")
METHODS = ("bayes", "random", "grid")


class WandbBackend:
    """A sweep for a study, a run for each trial.

    `mode` "service": W&B proposes (`method` bayes, random or grid; `early_terminate` as in a sweep's configuration; both
    also from a space that is written as one). "scheduler": the embedded engine proposes, in a sweep on a server that
    takes such runs (wandb 0.31): several objectives, and spaces that are only known as they run. "offline": the engine
    proposes, and the runs, grouped, lie in the study's directory to be sent later. Default: offline with
    WANDB_MODE=offline, scheduler for several objectives or an unknown space where the server has it, else service.

    The sweep's metric is the objective that we compute, under the name `metric`. `sweep_id` joins a sweep that exists.
    `project` (default WANDB_PROJECT, else "tunesmith"), `entity`, `name` are W&B's. `pruner` is an Optuna pruner.

    Raises SettingError for options that cannot be, ServiceError when W&B cannot be reached at the start of a study.
    Later a lost network costs at most 5 seconds: the engine proposes, and the runs are sent when it is back.
    """

    # runs are the driver's business: a Trainer's own WandbCallback must not open others in its worker
    environment: ClassVar[Mapping[str, str]] = {"WANDB_MODE": "disabled"}

    def __init__(
        self,
        setting: Setting,
        *,
        mode: str | None = None,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        metric: str | None = None,
        sweep_id: str | None = None,
        method: str | None = None,
        early_terminate: Mapping[str, Any] | None = None,
        pruner: BasePruner | None = None,
    ) -> None:
        _check_version()
        written = setting.written if isinstance(setting.written, Mapping) and "parameters" in setting.written else {}
        self._method = str(method or written.get("method") or "bayes")
        self._early = early_terminate or written.get("early_terminate")
        self._setting = setting
        self._name = name or written.get("name")
        self._metric = str(metric or (written.get("metric") or {}).get("name") or "objective")
        self._engine = EngineBackend(setting, pruner=pruner)
        mine = dict(setting.memory.get("wandb", {}))
        project = project or mine.get("project") or os.environ.get("WANDB_PROJECT") or "tunesmith"
        entity = entity or mine.get("entity") or os.environ.get("WANDB_ENTITY")
        if sweep_id is not None and mine.get("sweep") not in (None, sweep_id):
            raise SettingError(
                f"a study keeps its sweep, got sweep_id={sweep_id!r} for one that has {mine['sweep']!r}; give the search "
                "another study name"
            )
        self._sweep = Sweep(project=project, entity=entity, sweep=sweep_id or mine.get("sweep"))
        self._traced = None if setting.define is None or setting.space is not None else trace(setting.define).space
        self._mode = mode or mine.get("mode") or self._choose()
        self._check()
        if sweep_id is not None and mine.get("sweep") is None:
            self._join()
        elif self._mode != "offline" and self._sweep.id is None and self._space():
            self._begin()
        elif self._mode != "offline" and self._sweep.id is None:
            self._sweep.check()
        self._remember()
        self._runs = Runs(
            setting.directory,
            project=self._sweep.project,
            entity=self._sweep.entity,
            group=self._name or f"{setting.study_name or 'study'}-{setting.seed}",
            metric=self._metric,
            names=self._names(),
            upload=self._mode != "offline",
            alone=setting.slots == 1,
        )
        if self._early:
            self._runs.live_after = 0.0  # the server decides by what has arrived
        self._down = False

    # -- the protocol --------------------------------------------------------------------------------------------

    def ask(self, number: int, fixed: Params) -> Proposal | Halt:
        """The sweep's next run, or the engine's proposal as a run of the sweep."""
        trials = self._setting.history()
        trial = next((t for t in trials if t.number == number), Trial(number, TrialState.WAITING))
        draw = drawn(self._setting.seed, number)
        known = trial.why.get("wandb_run")
        if known is not None:  # it was interrupted
            self._runs.begin(trial, str(known), sweep=self._sweep.id, config=fixed)
            self._attach(str(known))
            return Proposal({}, draw)
        if self._mode != "offline" and self._sweep.id is None and self._space():
            self._begin_when_up()
        proposal: Proposal | None = None
        if self._mode == "service" and self._sweep.id is not None and not fixed:
            given = self._given()
            if isinstance(given, Halt):
                return given
            if given is not None:
                space = self._space()
                params = {n: nearest(space[n], value) for n, value in given.params.items() if n in space}
                params = {n: value for n, value in params.items() if contains(space[n], value)}
                proposal = Proposal(params, draw, {"wandb": f"W&B's sweep ({self._method})", "wandb_run": given.run})
        if proposal is None:
            proposal = self._own(number, fixed)
        self._runs.begin(trial, str(proposal.why["wandb_run"]), sweep=self._sweep.id, config=proposal.params)
        return proposal

    def judge(self, trial: Trial) -> Decision:
        """What the pruner says, then whether the sweep stops the run."""
        self._runs.log(trial)
        decision = self._engine.judge(trial)
        if decision.action == "continue" and self._mode == "service" and self._stopped(trial):
            step = trial.reports[-1].step if trial.reports else 0
            return Decision("prune", f"pruned: the sweep stopped the run at step {step}")
        return decision

    def log(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """What a trial logs between its reports, to its run."""
        self._runs.log_between(number, step, metrics)

    def tell(self, trial: Trial) -> None:
        """Close the trial's run; the sweep must have it before it is asked again."""
        self._engine.tell(trial)
        run = str(trial.why.get("wandb_run"))
        path = self._runs.end(trial, stopped=self._stopped(trial, news=False))
        self._sweep.release(run)
        wanted = self._mode == "service" or (self._mode == "scheduler" and self._sweep.id is None)
        if path is not None and wanted and not self._down:
            sent = self._runs.uploader
            if not self._sweep.line.wait(lambda seconds: sent.wait(path, seconds)):
                self._say_down("a run has not arrived")

    def close(self) -> None:
        """Close the runs of trials that will go on later, and send what can be sent now."""
        self._runs.pause()
        if self._mode != "offline":
            self._sweep.line.wait(self._runs.uploader.idle, CLOSING)
            self._sweep.line.close()
        left = self._runs.uploader.close()
        if left and self._mode != "offline":
            where = os.path.join(self._setting.directory, "wandb")  # noqa: PTH118  a text for a command
            warnings.warn(
                f"{left} W&B run(s) could not be sent yet; they are sent when the study goes on, or by: wandb sync {where}"
                "/offline-run-*",
                stacklevel=2,
            )

    # -- the sweep -----------------------------------------------------------------------------------------------

    def _choose(self) -> str:
        if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
            return "offline"
        hard = len(self._setting.directions) > 1 or not self._space()
        return "scheduler" if hard and self._sweep.id is None and self._sweep.has_scheduler() else "service"

    def _check(self) -> None:
        if self._mode not in MODES:
            raise SettingError(f"mode must be one of {', '.join(MODES)}, got {self._mode!r}")
        if self._method not in METHODS:
            raise SettingError(f"method must be one of {', '.join(METHODS)}, got {self._method!r}")
        if self._mode == "scheduler" and self._sweep.id is None and not self._sweep.has_scheduler():
            raise SettingError(
                'mode="scheduler" needs wandb >= 0.31 and a server that takes runs which are proposed here, and this one '
                'does not; use mode="service", or WANDB_MODE=offline'
            )
        if self._mode != "service" and self._early:
            raise SettingError(
                f'early_terminate is the service\'s, got it with mode="{self._mode}"; give an Optuna pruner instead'
            )
        if self._mode == "service" and len(self._setting.directions) > 1:
            warnings.warn(
                f"a W&B sweep optimises one metric: the first of {len(self._setting.directions)} objectives; the others "
                "are logged, and the Pareto set is of all",
                stacklevel=3,
            )
        endless = [n for n, d in self._space().items() if _endless(d)]
        if self._method == "grid" and self._mode == "service" and endless:
            raise SettingError(
                f'method "grid" needs choices, integers or steps, and "{endless[0]}" is a range of floats'
            )

    def _begin(self) -> None:
        parameters = to_wandb(self._space())
        goals = [{"name": n, "goal": d} for n, d in zip(self._names(), self._setting.directions, strict=True)]
        if self._mode == "scheduler":
            metrics = {"metrics": goals} if len(goals) > 1 else {"metric": goals[0]}
            # the schema knows the engines of W&B's own scheduler program only; this sweep is driven from here
            config = {"method": "custom", **metrics, "scheduler": {"engine": "optuna"}, "parameters": parameters}
        else:
            config = {"method": self._method, "metric": goals[0], "parameters": parameters}
            config |= {"early_terminate": dict(self._early)} if self._early else {}
        earlier = [str(t.why["wandb_run"]) for t in self._setting.history() if "wandb_run" in t.why and t.params]
        self._sweep.begin(config, name=self._name or self._setting.study_name or None, runs=earlier)
        self._remember()

    def _begin_when_up(self) -> None:
        try:
            self._begin()
        except OSError as error:  # a ServiceError
            self._say_down(error)

    def _join(self) -> None:
        config = self._sweep.config()
        metric = config.get("metric") or {}
        goal = metric.get("goal", "minimize")
        if goal != self._setting.directions[0]:
            raise SettingError(
                f"a sweep keeps its goal, got direction {self._setting.directions[0]!r} for sweep {self._sweep.id}, whose "
                f"goal is {goal!r}"
            )
        self._metric = str(metric.get("name") or self._metric)
        self._method = str(config.get("method", self._method))
        self._early = config.get("early_terminate")

    def _remember(self) -> None:
        mine = {
            "mode": self._mode,
            "project": self._sweep.project,
            "entity": self._sweep.entity,
            "sweep": self._sweep.id,
        }
        if self._setting.memory.get("wandb") != mine:
            self._setting.memory["wandb"] = mine

    def _given(self) -> Given | Halt | None:
        """The sweep's next run; None when the network is down or it has none now."""
        try:
            given = self._sweep.ask()
        except DownError as error:
            self._say_down(error)
            return None
        if self._down:
            self._down = False
        if given == "ended":
            return Halt("the sweep has ended in W&B", resumable=False)
        if given == "paused":
            return Halt("the sweep is paused in W&B; resume it there and run the same search again", resumable=True)
        return given if isinstance(given, Given) else None

    def _own(self, number: int, fixed: Params) -> Proposal:
        """The engine's proposal, as a run of the sweep where there is one."""
        proposal = self._engine.ask(number, fixed)
        why = {**proposal.why, "wandb": "the embedded engine"}
        run = secrets.token_hex(4)
        if self._mode == "scheduler" and self._sweep.id is not None:
            try:
                self._sweep.enqueue(proposal.params, f"trial-{number}")
                given = self._sweep.ask()
                run = given.run if isinstance(given, Given) else run
            except DownError as error:
                self._say_down(error)
        elif self._mode == "service":
            why["wandb"] = "an initial point" if fixed else "the embedded engine, for W&B gave no run"
        return Proposal(proposal.params, proposal.draw, {**why, "wandb_run": run})

    def _attach(self, run: str) -> None:
        if self._mode == "service" and self._sweep.id is not None:
            try:
                self._sweep.attach(run)
            except DownError as error:
                self._say_down(error)

    def _stopped(self, trial: Trial, *, news: bool = True) -> bool:
        return self._mode == "service" and self._sweep.stops(str(trial.why.get("wandb_run")), news=news)

    def _say_down(self, error: Exception | str) -> None:
        if not self._down:
            warnings.warn(f"W&B: {error}; the engine proposes, and runs are sent when it is back", stacklevel=4)
        self._down = True

    # -- what is known -------------------------------------------------------------------------------------------

    def _space(self) -> Space:
        if self._setting.space is not None:
            return self._setting.space
        return {**(self._traced or {}), **seen_space(self._setting.history())}

    def _names(self) -> list[str]:
        n = len(self._setting.directions)
        return [self._metric, *(f"{self._metric}_{k}" for k in range(1, n))]


def _check_version() -> None:
    import wandb  # noqa: PLC0415  this module's own package, which the registry has found

    if tuple(int(p) for p in wandb.__version__.split(".")[:2]) < (0, 31):
        raise MissingDependencyError(
            f'backend "wandb" needs wandb >= 0.31, whose sweeps it speaks with, got {wandb.__version__}: '
            'pip install -U "tunesmith[wandb]"'
        )


def _endless(distribution: Any) -> bool:
    return (
        type(distribution).__name__ == "FloatDistribution" and distribution.step is None and not distribution.single()
    )
