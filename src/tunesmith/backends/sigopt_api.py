"""A SigOpt server's core experiments API, by the official client: one experiment for a study."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import distribution_to_json, json_to_distribution

from tunesmith.backends import Setting
from tunesmith.backends.sigopt_lite import BUDGET
from tunesmith.backends.sigopt_space import Coded
from tunesmith.errors import MissingDependencyError, ServiceError, SettingError
from tunesmith.trial import Params, Trial, contains

PATIENCE = 60.0  # seconds that an ask waits for a server that cannot be reached; then the search ends, to be resumed
PATIENCE_TELL = 5.0  # a result that cannot be sent by then is sent with the next one
TIMEOUT = 60.0  # of one request
_KEY = "tunesmith"  # in the metadata of experiments, suggestions and observations: which of ours it is
_OBSERVATIONS = 500  # sent at once when a study goes to another experiment
_NAME = 100  # letters of an experiment's name
_SERVER_ERROR = 500
_CONFLICT = 409
Values = Mapping[str, float] | None


class Server:
    """The study's experiment on the server.

    What it is called is in the study's memory; every suggestion and observation carries our mark in its metadata. So
    after a lost connection or a killed process we see what has arrived, and nothing is sent twice.
    """

    def __init__(
        self,
        setting: Setting,
        metrics: Sequence[Mapping[str, Any]],
        *,
        project: str | None,
        experiment: str | int | None,
        name: str | None,
    ) -> None:
        try:
            import sigopt  # noqa: PLC0415  an optional package
        except ImportError as error:
            raise MissingDependencyError(
                'backend "sigopt" with SIGOPT_API_URL needs SigOpt\'s client: pip install "tunesmith[sigopt]"'
            ) from error
        url = os.environ.get("SIGOPT_API_URL")
        if not url:
            raise SettingError('mode="api" needs the URL of a SigOpt server; set SIGOPT_API_URL and SIGOPT_API_TOKEN')
        self._url = url
        self._setting = setting
        self._metrics = [dict(m) for m in metrics]
        self._project = project or os.environ.get("SIGOPT_PROJECT") or "tunesmith"
        if not re.fullmatch(r"[a-z0-9_.-]{1,32}", self._project):
            raise SettingError(
                "a SigOpt project has up to 32 lower-case letters, digits, dots, - and _, got "
                f"project={self._project!r} (or SIGOPT_PROJECT); give it another name"
            )
        self._name = (name or setting.study_name or "tunesmith")[:_NAME]
        self._errors = (sigopt.exception.ConnectionException, sigopt.exception.ApiException)
        try:
            self._connection = sigopt.Connection()
        except ValueError as error:
            raise SettingError(
                f"a SigOpt server needs a token, and there is none; set SIGOPT_API_TOKEN ({error})"
            ) from error
        self._connection.set_timeout(TIMEOUT)
        self._sent: dict[str, Any] = {}  # our mark -> observation
        self._open: dict[str, Any] = {}  # our mark -> suggestion
        self._looked = False
        self._behind = False
        if experiment is not None:
            self._join(str(experiment))

    # -- the two things a search does ----------------------------------------------------------------------------

    def suggest(
        self,
        trial: Trial,
        fixed: Params,
        coded: Coded,
        finished: Sequence[Trial],
        values: Mapping[int, Values],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The server's parameters for a trial, and what to store with it."""
        if not coded.names:
            return {}, {"sigopt": "random, for the space is not known before the first trial"}
        coded = self._experiment(coded)
        self._catch_up(finished, values, PATIENCE)
        mine = self._mine()
        account: dict[str, Any] = {"sigopt_experiment": mine["experiment"]}
        earlier = trial.why.get("sigopt_suggestion")
        if earlier is not None and trial.why.get("sigopt_experiment") == mine["experiment"]:
            return {}, account  # an interrupted trial keeps its values
        mark = self._mark(trial.number)
        if mark not in self._open and fixed:
            self._queue(coded, fixed)
        suggestion = self._open.pop(mark, None) or self._retry(
            lambda: self._suggestions().create(metadata={_KEY: mark}),
            PATIENCE,
            arrived=lambda: self._open_suggestions().get(mark),
        )
        found = coded.params(_plain(suggestion.assignments))
        account |= {"sigopt": "an initial point" if fixed else "SigOpt's server", "sigopt_suggestion": suggestion.id}
        given = {n: v for n, v in fixed.items() if n in coded.names}
        if any(n not in found or coded.told(n, found[n]) != coded.told(n, v) for n, v in given.items()):
            # its result will come without it
            self._retry(lambda: self._resource().suggestions(suggestion.id).delete(), PATIENCE)
            account["sigopt_suggestion"] = None
        return found, account

    def observe(self, trial: Trial, values: Values) -> None:
        """Send a finished trial; when the server cannot be reached, later."""
        if "experiment" not in self._mine():
            return  # the first trial shows the space; it is sent when the experiment is made
        try:
            self._send(trial, values, PATIENCE_TELL)
        except ServiceError as error:
            if not self._behind:
                warnings.warn(f"{error}; the trial is recorded, and sent when SigOpt answers again", stacklevel=3)
            self._behind = True

    def close(self, finished: Sequence[Trial], values: Mapping[int, Values]) -> None:
        """Send what is missing."""
        if self._behind:
            try:
                self._catch_up(finished, values, PATIENCE_TELL)
            except ServiceError as error:
                warnings.warn(f"{error}; what is missing there is sent when the study goes on", stacklevel=3)

    # -- the experiment ------------------------------------------------------------------------------------------

    def _mine(self) -> dict[str, Any]:
        return dict(self._setting.memory.get("sigopt", {}))

    def _remember(self, **entries: Any) -> None:
        self._setting.memory["sigopt"] = {**self._mine(), **entries}

    def _mark(self, number: int) -> str:
        return f"{self._mine()['mark']}#{number}"

    def _resource(self) -> Any:
        return self._connection.experiments(self._mine()["experiment"])

    def _suggestions(self) -> Any:
        return self._resource().suggestions()

    def _join(self, experiment: str) -> None:
        """Go on with an experiment that the user names."""
        mine = self._mine()
        if mine.get("experiment") not in (None, experiment):
            raise SettingError(
                f"a study keeps its experiment, got experiment={experiment!r} for one that has {mine['experiment']!r}; "
                "give the search another study name"
            )
        found = self._retry(lambda: self._connection.experiments(experiment).fetch(), PATIENCE).to_json()
        ours = {m["name"]: m["objective"] for m in self._metrics if m["strategy"] != "store"}
        theirs = {m["name"]: m["objective"] for m in found["metrics"] if m.get("strategy") != "store"}
        if ours != theirs:
            raise SettingError(
                f"an experiment keeps its metrics, got {ours} for experiment {experiment}, which has {theirs}"
            )
        self._remember(experiment=experiment, mark=mine.get("mark") or secrets.token_hex(6), joined=True)

    def _experiment(self, coded: Coded) -> Coded:
        """Make the experiment, or another one where parameters have come up that the first one lacks.

        Returns the space as the experiment knows it.
        """
        mine = self._mine()
        known = _loaded(mine)
        if mine.get("joined"):
            if "space" not in mine:
                self._check_joined(coded)
                self._remember(**_stored(coded))
                known = coded
            return known
        if "experiment" in mine and set(coded.names) <= set(known.names) and _holds(known, coded):
            fixed = sum(m["strategy"] == "optimize" for m in self._metrics) > 1  # SigOpt lets it change for one only
            if mine.get("budget") != self._setting.n_trials and self._setting.n_trials is not None and not fixed:
                self._retry(lambda: self._resource().update(observation_budget=self._setting.n_trials), PATIENCE)
                self._remember(budget=self._setting.n_trials)
            return known
        begun = mine.get("mark") if mine.get("experiment") is None else None  # and cut off before it was made
        mark = begun or secrets.token_hex(6)
        self._remember(mark=mark, experiment=None)
        client = self._retry(lambda: self._connection.tokens("self").fetch(), PATIENCE).client
        self._make_project(client)
        found = self._retry(lambda: self._find_experiment(client, mark), PATIENCE) if begun else None
        budget = {"observation_budget": self._setting.n_trials or BUDGET}
        conditionals = {"conditionals": coded.conditionals} if coded.conditionals else {}
        made = found or self._retry(
            lambda: (
                self._connection.clients(client)
                .experiments()
                .create(
                    name=self._name,
                    project=self._project,
                    parameters=coded.parameters,
                    metrics=self._metrics,
                    parallel_bandwidth=self._setting.slots,
                    metadata={_KEY: mark},
                    **budget,
                    **conditionals,
                )
            ),
            PATIENCE,
            arrived=lambda: self._find_experiment(client, mark),
        )
        if mine.get("experiment"):  # the narrower one would only mislead
            self._retry(lambda: self._connection.experiments(mine["experiment"]).delete(), PATIENCE)
        self._remember(experiment=made.id, budget=self._setting.n_trials, **_stored(coded))
        self._sent, self._open, self._looked, self._behind = {}, {}, True, True
        return coded

    def _make_project(self, client: str) -> None:
        projects = self._connection.clients(client).projects()
        self._retry(lambda: projects.create(id=self._project, name=self._project), PATIENCE, may_exist=True)

    def _find_experiment(self, client: str, mark: str) -> Any:
        pages = self._connection.clients(client).projects(self._project).experiments().fetch()
        return next((e for e in pages.iterate_pages() if (_plain(e.metadata) or {}).get(_KEY) == mark), None)

    def _check_joined(self, coded: Coded) -> None:
        found = self._retry(lambda: self._resource().fetch(), PATIENCE).to_json()
        theirs = {p["name"]: _form(p) for p in found["parameters"]}
        theirs |= {c["name"]: {"values": sorted(c["values"])} for c in found.get("conditionals") or []}
        ours = {p["name"]: _form(p) for p in coded.parameters}
        ours |= {c["name"]: {"values": sorted(c["values"])} for c in coded.conditionals}
        differ = [n for n in {**ours, **theirs} if ours.get(n) != theirs.get(n)]
        if differ:
            n = differ[0]
            raise SettingError(
                f"an experiment keeps its parameters, and {n!r} is {theirs.get(n, 'absent')} in experiment "
                f"{self._mine()['experiment']}, {ours.get(n, 'absent')} in this search; leave experiment= out to make "
                "a new one"
            )

    # -- suggestions and observations ----------------------------------------------------------------------------

    def _queue(self, coded: Coded, fixed: Params) -> None:
        """Let SigOpt serve an initial point next, where it is a whole one."""
        assignments = coded.assignments(fixed) if set(coded.names) <= set(fixed) else None
        if assignments is None:
            return
        queued = self._resource().queued_suggestions()

        def arrived() -> Any:
            return next((q for q in queued.fetch().iterate_pages() if _plain(q.assignments) == assignments), None)

        if self._retry(arrived, PATIENCE) is None:  # else a process that was killed has queued it
            self._retry(lambda: queued.create(assignments=assignments), PATIENCE, arrived=arrived)

    def _open_suggestions(self) -> dict[str, Any]:
        pages = self._suggestions().fetch(state="open").iterate_pages()
        return {mark: s for s in pages if (mark := (_plain(s.metadata) or {}).get(_KEY)) is not None}

    def _catch_up(self, finished: Sequence[Trial], values: Mapping[int, Values], patience: float) -> None:
        """Send the finished trials that the server lacks: after a start, a lost connection, a new experiment."""
        if self._looked and not self._behind:
            return
        if not self._looked:
            self._sent = self._retry(self._observations, patience)
            self._open = self._retry(self._open_suggestions, patience)
            self._looked = True
        missing = [t for t in finished if self._mark(t.number) not in self._sent]
        alone = [t for t in missing if t.why.get("sigopt_experiment") == self._mine()["experiment"]]
        for trial in alone:
            self._send(trial, values[trial.number], patience)
        rest = [t for t in missing if t not in alone]
        bodies = [b for t in rest if (b := self._body(t, values[t.number])) is not None]
        for k in range(0, len(bodies), _OBSERVATIONS):
            part = bodies[k : k + _OBSERVATIONS]
            marks = {b["metadata"][_KEY] for b in part}
            self._retry(
                lambda part=part: self._resource().observations().create_batch(observations=part),  # type: ignore[misc]
                patience,
                arrived=lambda marks=marks: marks <= self._observations().keys() or None,  # type: ignore[misc]
            )
        self._behind = False

    def _observations(self) -> dict[str, Any]:
        pages = self._resource().observations().fetch().iterate_pages()
        return {mark: o for o in pages if (mark := (_plain(o.metadata) or {}).get(_KEY)) is not None}

    def _send(self, trial: Trial, values: Values, patience: float) -> None:
        mark = self._mark(trial.number)
        body = self._body(trial, values)
        if body is None:
            return
        known = self._sent.get(mark)
        if known is None:
            self._sent[mark] = self._retry(
                lambda: self._resource().observations().create(**body),
                patience,
                arrived=lambda: self._observations().get(mark),
            )
        elif _plain(known.metadata).get("state") != trial.state.value:  # run again, by somebody's request
            change = {k: body[k] for k in ("values", "failed", "metadata")}
            self._sent[mark] = self._retry(lambda: self._resource().observations(known.id).update(**change), patience)

    def _body(self, trial: Trial, values: Values) -> dict[str, Any] | None:
        """An observation: of its suggestion where the trial used those values, else of the values it used."""
        coded = _loaded(self._mine())
        metadata = {_KEY: self._mark(trial.number), "state": trial.state.value, "reason": (trial.reason or "")[:200]}
        given = None if values is None else [{"name": k, "value": v} for k, v in values.items()]
        what: dict[str, Any] = {"values": given, "failed": values is None, "metadata": metadata}
        same_experiment = trial.why.get("sigopt_experiment") == self._mine()["experiment"]
        suggestion = trial.why.get("sigopt_suggestion") if same_experiment else None
        used = {n: v for n, v in trial.params.items() if n in coded.names}
        if suggestion is not None and all(n in trial.offered and trial.offered[n] == v for n, v in used.items()):
            return {"suggestion": suggestion, **what}
        assignments = coded.assignments(trial.params) if trial.params else None
        return None if assignments is None else {"assignments": assignments, **what}

    # -- care ----------------------------------------------------------------------------------------------------

    def _retry(
        self,
        request: Callable[[], Any],
        patience: float,
        *,
        arrived: Callable[[], Any] | None = None,
        may_exist: bool = False,
    ) -> Any:
        """Make a request until it is answered. Before another try of one that changes something, look if it `arrived`."""
        until = time.monotonic() + patience
        wait, failed = 0.1, False
        while True:
            try:
                if failed and arrived is not None and (found := arrived()) is not None:
                    return found
                return request()
            except self._errors as error:
                status = getattr(error, "status_code", None)
                if status == _CONFLICT and may_exist:
                    return None
                if status is not None and status < _SERVER_ERROR:
                    raise ServiceError(f"SigOpt at {self._url} refused (status {status}): {error}") from error
                failed = True
                if time.monotonic() + wait > until:
                    raise ServiceError(
                        f"SigOpt at {self._url} cannot be reached ({str(error).splitlines()[-1]}); run the same search "
                        "again to go on"
                    ) from error
            time.sleep(wait)
            wait = min(2 * wait, 5.0)


def _plain(thing: Any) -> Any:
    return thing.to_json() if hasattr(thing, "to_json") else (None if thing is None else dict(thing))


def _stored(coded: Coded) -> dict[str, Any]:
    return {
        "space": {n: distribution_to_json(d) for n, d in coded.space.items()},
        "conditions": {n: {p: list(v) for p, v in c.items()} for n, c in coded.conditions.items()},
    }


def _loaded(mine: Mapping[str, Any]) -> Coded:
    return Coded({n: json_to_distribution(d) for n, d in mine.get("space", {}).items()}, mine.get("conditions", {}))


def _holds(known: Coded, coded: Coded) -> bool:
    """Whether the experiment's ranges hold those of the search, which may have been narrowed since."""
    for name in coded.names:
        mine, theirs = coded.space[name], known.space[name]
        ends = getattr(mine, "choices", None) or (getattr(mine, "low", None), getattr(mine, "high", None))
        if type(mine) is not type(theirs) or not all(contains(theirs, v) for v in ends):
            return False
    return True


def _form(parameter: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two parameters the same, of what the server shows of one."""
    bounds, values = parameter.get("bounds"), parameter.get("categorical_values")
    return {
        "type": parameter["type"],
        "bounds": None if not bounds else {"min": float(bounds["min"]), "max": float(bounds["max"])},
        "values": sorted(v if isinstance(v, str) else v["name"] for v in values or ()),
        "grid": sorted(map(float, parameter.get("grid") or ())),
        "transformation": parameter.get("transformation") if parameter.get("transformation") != "none" else None,
        "conditions": json.loads(json.dumps(parameter.get("conditions") or {})),
    }
