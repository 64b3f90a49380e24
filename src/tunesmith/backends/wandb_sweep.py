"""The W&B sweep protocol by the official client: make or join a sweep, be given runs, hear of stops."""

from __future__ import annotations

import http.client
import os
import queue
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import ServiceError, SettingError
from tunesmith.restoring import restored

OUTAGE = 5.0  # seconds that lost networks may add to a start of a study, in all
STARTING = 60.0  # seconds to reach W&B when a new study begins
PATIENCE = 20.0  # seconds for one answer of a server that can be reached
_ANSWER = 1.5  # seconds after which a server that says nothing has missed a beat
_MISSED = 2  # so many in a row, and it counts as lost: a busy machine misses one now and then
_BEAT = 0.3  # seconds between looks
_EMPTY = 10.0  # seconds to wait for a sweep that is running and has no run for us now
# its client makes the sweep's project and entity the process's defaults: other runs would land there
_DEFAULTS = ("WANDB_PROJECT", "WANDB_ENTITY")
_ENDED = ("FINISHED", "STOPPED", "CANCELED", "CANCELLED")


class DownError(Exception):
    """The network does not answer, or not in time."""


class Pulse:
    """Whether W&B can be reached, found out in a thread of its own while somebody wants to know."""

    def __init__(self, url: str) -> None:
        self.down = False
        self._over = False
        self._url = url.rstrip("/") + "/healthz"
        self._wanted = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def wait(self, ready: Callable[[float], bool], limit: float) -> bool:
        """Whether it is `ready(seconds)` within the limit; gives up at once when W&B cannot be reached."""
        until = time.monotonic() + limit
        while not ready(0.05):
            self._wanted.set()
            if self.down or time.monotonic() > until:
                return False
        return True

    def close(self) -> None:
        """Look no more: where W&B stays lost, the thread would for ever."""
        self._over = True
        self._wanted.set()

    def _watch(self) -> None:
        missed = 0
        while not self._over:
            self._wanted.wait()
            missed = 0 if self._answers() else missed + 1
            self.down = missed >= _MISSED
            if missed == 0:  # after a missed beat another look is due
                self._wanted.clear()
            time.sleep(_BEAT)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._url, timeout=_ANSWER):  # noqa: S310  the user's own server
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return True
        except urllib.error.URLError as error:
            return isinstance(error.reason, ssl.SSLError)
        except (OSError, http.client.HTTPException):  # the latter: whoever answers, it is not W&B
            return False


class Line:
    """Calls to W&B in one thread of their own; the search waits for an answer, but for lost networks only `OUTAGE` in all."""

    def __init__(self) -> None:
        self.left = OUTAGE
        self._pulse: Pulse | None = None
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]]] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[Any] | None = None  # of a call that we gave up waiting for
        threading.Thread(target=self._work, daemon=True).start()

    def call(self, request: Callable[[], Any], *, limit: float | None = None) -> Any:
        """The answer. Raises DownError when W&B cannot be reached, or has not answered within the limit."""
        if self._waiting is not None and self._waiting.empty():
            raise DownError("an earlier call is still without an answer")
        if self.pulse.down:
            raise DownError("there is no connection")
        self._waiting = None
        answer = self.start(request)
        found: list[Any] = []

        def ready(seconds: float) -> bool:
            with suppress(queue.Empty):
                found.append(answer.get(timeout=seconds))
            return bool(found)

        began = time.monotonic()
        if not self.wait(ready, limit):
            self._waiting = answer
            raise DownError("there is no connection" if self.pulse.down else "there was no answer in time")
        value, error = found[0]
        if error is None:
            return value
        if isinstance(error, OSError | ServiceError) or "wandb" in type(error).__module__:
            self._spend(time.monotonic() - began)
            raise DownError(f"{type(error).__name__}: {error}") from error
        raise error

    def wait(self, ready: Callable[[float], bool], limit: float | None = None) -> bool:
        """Whether it is ready in time; what a lost network takes of that is counted."""
        began = time.monotonic()
        if limit is None:
            limit = PATIENCE if self.left > 0 else _BEAT
        done = self.pulse.wait(ready, limit)
        if not done:
            self._spend(time.monotonic() - began)
        return done

    def start(self, request: Callable[[], Any]) -> queue.SimpleQueue[Any]:
        """Make a call whose answer, (value, error), is put into the queue that is returned."""
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._calls.put((request, answer))
        return answer

    @property
    def pulse(self) -> Pulse:
        """Whether W&B can be reached."""
        if self._pulse is None:
            import wandb  # noqa: PLC0415  an optional package

            self._pulse = Pulse(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url)
        return self._pulse

    def close(self) -> None:
        """Nobody waits for W&B any more."""
        if self._pulse is not None:
            self._pulse.close()

    def _spend(self, seconds: float) -> None:
        self.left = max(0.0, self.left - seconds)

    def _work(self) -> None:
        while True:
            request, answer = self._calls.get()
            try:
                answer.put((request(), None))
            except Exception as error:  # noqa: BLE001  it is raised in the caller
                answer.put((None, error))


@dataclass
class _Agent:
    """One place of ours in the sweep: it has one run at a time."""

    id: str
    run: str | None = None
    beat: queue.SimpleQueue[Any] | None = None  # the answer to come to a question for stops
    heard: deque[dict[str, Any]] = field(default_factory=deque)  # runs, and the end, also of answers that came too late
    stopped: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Given:
    """A run that the sweep gave us."""

    run: str
    params: Mapping[str, Any]


class Sweep:
    """A sweep on the server, and our agents in it. Made without a network; each call may raise DownError."""

    def __init__(self, *, project: str, entity: str | None, sweep: str | None) -> None:
        self.project, self.entity, self.id = project, entity, sweep
        self.line = Line()
        self._api: Any = None
        self._service: Any = None
        self._agents: list[_Agent] = []

    # -- making and joining --------------------------------------------------------------------------------------

    def begin(self, config: Mapping[str, Any], *, name: str | None, runs: Sequence[str] = ()) -> None:
        """Make the sweep, with runs that were made before it. Raises ServiceError when W&B cannot be reached."""
        from wandb.apis.public.sweeps import _upsert_sweep  # noqa: PLC0415  an optional package

        def make() -> Any:
            api = self._connect()
            entity = self.entity or api.default_entity
            with restored(_DEFAULTS):
                return _upsert_sweep(
                    api,
                    dict(config),
                    project=self.project,
                    entity=entity,
                    display_name=name,
                    prior_runs=list(runs),
                )

        sweep, warnings_ = self._at_start(make)
        if warnings_:
            raise SettingError(f"W&B does not accept the sweep's configuration: {'; '.join(map(str, warnings_))}")
        self.id = str(sweep["name"])
        self.entity = sweep["project"]["entity"]["name"]
        self.project = sweep["project"]["name"]

    def config(self) -> dict[str, Any]:
        """The configuration of a sweep that exists. Raises ServiceError when it cannot be read."""

        def read() -> Any:
            api = self._connect()
            self.entity = self.entity or api.default_entity
            return dict(api.sweep(f"{self.entity}/{self.project}/{self.id}").config)

        found: dict[str, Any] = self._at_start(read)
        return found

    def check(self) -> None:
        """Raises ServiceError when W&B cannot be used."""
        self._at_start(self._connect)

    def has_scheduler(self) -> bool:
        """Whether the server takes runs that are proposed here."""
        from wandb.proto import wandb_internal_pb2 as pb  # noqa: PLC0415  an optional package

        feature = getattr(pb.ServerFeature, "SWEEPS_LOCAL_SCHEDULER", None)
        if feature is None:
            return False  # wandb < 0.31
        return bool(self._at_start(lambda: self._connect()._service_api.feature_enabled(feature)))  # noqa: SLF001

    def _at_start(self, request: Callable[[], Any]) -> Any:
        try:
            return self.line.call(request, limit=STARTING)
        except DownError as error:
            raise ServiceError(
                f"W&B cannot be used ({error}); check the network, WANDB_BASE_URL and WANDB_API_KEY (wandb login), or "
                "set WANDB_MODE=offline to search without it and send the runs later"
            ) from error

    def _connect(self) -> Any:
        import wandb  # noqa: PLC0415  an optional package

        service = wandb.setup()  # another one after the first was killed
        if self._api is None or self._service is not service:
            self._api, self._service = wandb.Api(), service
            self.entity = self.entity or self._api.default_entity
        return self._api

    # -- runs ----------------------------------------------------------------------------------------------------

    def ask(self, wait: Callable[[float], None] = time.sleep) -> Given | str:
        """The next run, or why there is none: "ended", "paused", or "empty" when the sweep has none for us now."""
        agent = self._idle()
        until = time.monotonic() + _EMPTY
        pause = 0.05
        while True:
            if not agent.heard:
                self.line.call(lambda: self._beat(agent))
            if agent.heard:
                command = agent.heard.popleft()
                if command["type"] == "exit":
                    return "ended"
                run = agent.run = str(command["run_id"])
                return Given(run, {k: v["value"] for k, v in (command.get("args") or {}).items()})
            state = self.line.call(self._state)
            if state in _ENDED:
                return "ended"
            if state == "PAUSED":
                return "paused"
            if time.monotonic() > until:
                return "empty"
            wait(pause)
            pause = min(2 * pause, 1.0)

    def enqueue(self, params: Mapping[str, Any], name: str) -> None:
        """Put a run that was proposed here into the sweep."""

        def put() -> Any:
            sweep = self._connect().sweep(f"{self.entity}/{self.project}/{self.id}")
            return sweep.enqueue_run({k: {"value": v} for k, v in params.items()}, display_name=name)

        self.line.call(put)

    def attach(self, run: str) -> None:
        """Give a place to a run of an earlier start, so that its stop is heard of."""
        self._idle().run = run

    def stops(self, run: str, *, news: bool = True) -> bool:
        """Whether the sweep wants this run to stop, as far as is known; asks for `news` without waiting for them."""
        agent = next((a for a in self._agents if a.run == run), None)
        if agent is None:
            return False
        if agent.beat is not None and not agent.beat.empty():
            agent.beat.get()
            agent.beat = None
        if agent.beat is None and news:
            agent.beat = self.line.start(lambda: self._beat(agent))
        return run in agent.stopped

    def release(self, run: str) -> None:
        """The run has ended."""
        for agent in self._agents:
            if agent.run == run:
                agent.run, agent.beat = None, None

    def _idle(self) -> _Agent:
        agent = next((a for a in self._agents if a.run is None), None)
        if agent is None:
            agent = _Agent(self.line.call(self._register))
            self._agents.append(agent)
        return agent

    def _register(self) -> str:
        from wandb.apis.public.sweeps import _register_agent  # noqa: PLC0415  an optional package

        made = _register_agent(
            self._connect(), socket.gethostname(), sweep_id=str(self.id), project=self.project, entity=self.entity
        )
        return str(made["id"])

    def _beat(self, agent: _Agent) -> None:
        from wandb.apis.public.sweeps import _agent_heartbeat  # noqa: PLC0415  an optional package

        for command in _agent_heartbeat(self._connect(), agent.id, {}, {} if agent.run is None else {agent.run: True}):
            if command["type"] == "stop":
                agent.stopped.add(command["run_id"])
            elif command["type"] in ("run", "exit"):
                agent.heard.append(command)

    def _state(self) -> str:
        from wandb.apis.public.sweeps import _get_sweep_state  # noqa: PLC0415  an optional package

        return str(_get_sweep_state(self._connect(), str(self.id), entity=self.entity, project=self.project)).upper()
