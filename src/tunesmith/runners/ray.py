"""The Ray runner: trials in a pool of long-lived Ray actors, on this machine or on a cluster of them."""

from __future__ import annotations

import logging
import math
import os
import queue
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tunesmith.errors import MissingDependencyError, RankLostError, SettingError
from tunesmith.runners import Task
from tunesmith.runners.group import connect as meet_on
from tunesmith.runners.pickling import dumps_task, loads
from tunesmith.runners.reception import Invitation, Reception
from tunesmith.runners.remote import Loss, RemoteRunner
from tunesmith.runners.slots import MOST_RANKS, Slot, check_count
from tunesmith.runners.worker import load_task, module_path, prepare_process, run_alone, run_trials, see_modules
from tunesmith.runners.worker_ranks import ReservedPort, environment, take_part

try:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError as error:
    raise MissingDependencyError('runner "ray" needs Ray: pip install "tunesmith[ray]"') from error

_NAMES = {"cpu": "CPU", "gpu": "GPU"}
_GOODBYE = 5.0  # seconds for killed actors to be gone


class RayRunner(RemoteRunner):
    """Runs trials in Ray actors, one trial in each at a time, which live as long as the search.

    Uses the Ray that this process is connected to; else joins the cluster at RAY_ADDRESS; else starts Ray on this
    machine, for the time of the search. `resources_per_trial` are what an actor needs, as {"cpu": 1, "gpu": 0.5} with
    any names of the cluster's own beside (default: one CPU, and one GPU where there are any). `workers` actors are asked
    for at once, so that an autoscaler knows all that is wanted; "auto": as many as the nodes hold, followed as they come
    and go. A worker of several `ranks_per_trial` is as many actors, each with these resources, of which Ray reserves all or
    none. The task is pickled once (`bare` as in `WorkersRunner`), and goes to each node once. `trial_timeout` is in seconds per attempt.

    Raises SettingError for resources that cannot be, and when Ray cannot be joined or started.
    """

    def __init__(
        self,
        task: Task,
        *,
        workers: int | Literal["auto"] = "auto",
        resources_per_trial: Mapping[str, float] | None = None,
        ranks_per_trial: int = 1,
        trial_timeout: float | None = None,
        bare: Sequence[object] = (),
    ) -> None:
        check_count("ranks_per_trial", ranks_per_trial, most=MOST_RANKS)
        if workers != "auto" and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
            raise SettingError(f'workers must be a whole number from 1, or "auto", got {workers!r}')
        wanted = None if resources_per_trial is None else _checked(resources_per_trial)
        pickled = dumps_task(task, bare=bare)
        ours = connect()
        try:
            launcher = RayLauncher(pickled, workers=workers, resources=wanted, ranks=ranks_per_trial, disconnect=ours)
            super().__init__(launcher, host=ray.util.get_node_ip_address(), trial_timeout=trial_timeout)
        except BaseException:
            if ours:
                ray.shutdown()
            raise


class RayLauncher:
    """Brings up workers as Ray actors. `disconnect`: leave Ray in the end."""

    def __init__(
        self,
        pickled: bytes,
        *,
        workers: int | Literal["auto"],
        resources: Mapping[str, float] | None,
        ranks: int,
        disconnect: bool,
    ) -> None:
        if resources is None:
            resources = {"CPU": 1, "GPU": 1} if ray.cluster_resources().get("GPU", 0) >= 1 else {"CPU": 1}
        self._resources = resources
        self._workers = workers
        self._ranks = ranks
        self._disconnect = disconnect
        self._check_fit()
        self._task = ray.put(np.frombuffer(pickled, dtype=np.uint8))  # an array is read in place, where it lies
        self._launched: dict[int, _Launched] = {}
        others = {k: v for k, v in resources.items() if k not in ("CPU", "GPU", "memory")}
        self._options = {
            "num_cpus": resources.get("CPU", 0),
            "num_gpus": resources.get("GPU", 0),
            "memory": resources.get("memory"),
            "resources": others,
            "max_restarts": 0,
        }

    def room(self) -> int:
        """The number given, or as many as the nodes hold that are there now."""
        if self._workers != "auto":
            return self._workers
        return sum(self._fitting(node) for node in _nodes()) // self._ranks

    def launch(self, invitations: Sequence[Invitation], lost: Callable[[int, Loss], None]) -> None:
        """Ask Ray for workers' actors; they come when there is a place for all of a worker."""
        threads = max(1, int(self._resources.get("CPU", 1)))
        setting = (self._task, threads, module_path(), str(Path.cwd()))
        for invitation in invitations:
            if self._ranks == 1:
                actor = ray.remote(_TrialActor).options(**self._options).remote()
                launched = _Launched([actor], [actor.serve.remote(invitation, *setting)])
            else:
                launched = self._launch_ranks(invitation, setting)
            self._launched[invitation.worker] = launched
            for rank, served in enumerate(launched.served):
                served.future().add_done_callback(partial(self._on_end, invitation.worker, rank, lost))

    def _launch_ranks(self, invitation: Invitation, setting: tuple[Any, ...]) -> _Launched:
        wanted = {name: amount for name, amount in self._resources.items() if amount}
        place = placement_group([wanted] * self._ranks, strategy="PACK")
        actors = []
        for rank in range(self._ranks):
            there = PlacementGroupSchedulingStrategy(place, placement_group_bundle_index=rank)
            actors.append(ray.remote(_TrialActor).options(scheduling_strategy=there, **self._options).remote())
        meeting = actors[0].meet.remote(self._ranks)
        served = [
            actor.take_part.remote(rank, self._ranks, meeting, invitation, *setting)
            for rank, actor in enumerate(actors)
        ]
        return _Launched(actors, served, place)

    def _on_end(self, worker: int, rank: int, lost: Callable[[int, Loss], None], future: Any) -> None:
        """An actor is gone. Called in a thread of Ray's, which waits for nothing of Ray."""
        error = future.exception()
        if isinstance(getattr(error, "cause", None), RankLostError):
            return  # the rank that was lost is to say why
        loss = _loss(error)
        if self._ranks > 1:
            loss = replace(loss, how=f"lost rank {rank} of {self._ranks}, which {loss.how}")
        lost(worker, loss)

    def kill(self, worker: int) -> None:
        """End a worker's actors."""
        launched = self._launched.pop(worker, None)
        if launched is None:
            return
        for actor in launched.actors:
            ray.kill(actor)
        if launched.place is not None:
            remove_placement_group(launched.place)

    def waited_for(self) -> str:
        """The resources wanted, and those that are free."""
        wanted = _said({k: v * self._ranks for k, v in self._resources.items() if v})
        free = _said({k: v for k, v in ray.available_resources().items() if k in self._resources})
        return f"each needs {wanted}, and free in Ray's cluster of {len(_nodes())} node(s) are {free or 'none'}"

    def close(self) -> None:
        """End all actors, and leave Ray if this search has joined or started it."""
        served = [s for launched in self._launched.values() for s in launched.served]
        for worker in list(self._launched):
            self.kill(worker)
        if served:
            ray.wait(served, num_returns=len(served), timeout=_GOODBYE)
        if self._disconnect:
            ray.shutdown()

    def _fitting(self, node: Mapping[str, float]) -> int:
        return math.floor(min(node.get(name, 0.0) / amount for name, amount in self._resources.items() if amount))

    def _check_fit(self) -> None:
        if os.environ.get("RAY_ADDRESS") or not self._disconnect:
            return  # a cluster may grow, where Ray that was started here may not
        nodes = _nodes()
        if sum(self._fitting(node) for node in nodes) >= self._ranks:
            return
        each = "" if self._ranks == 1 else f" for each of {self._ranks} ranks"
        held = "; ".join(_said({k: node.get(k, 0) for k in self._resources}) for node in nodes)
        raise SettingError(
            f"resources_per_trial must fit a node, got {_said(self._resources)}{each}, and there is {held}; ask for less"
        )


@dataclass(frozen=True)
class _Launched:
    """A worker's actors, by rank, what they were asked to do, and their reserved place."""

    actors: Sequence[Any]
    served: Sequence[Any]
    place: Any = None


@dataclass(frozen=True)
class _Meeting:
    """Where the ranks of a worker meet: at rank 0, by these invitations; torch's server may listen at the port."""

    invitations: Sequence[Invitation]
    host: str
    port: int


class _TrialActor:
    """A worker, or a rank of one, as a Ray actor."""

    def serve(self, invitation: Invitation, task: Any, threads: int, path: Sequence[str], directory: str) -> None:
        """Come to the driver and run its trials until it is gone."""
        _prepare(threads, path, directory)
        connection = invitation.accept()
        prepare_process(connection)
        with suppress(EOFError, ConnectionError):
            run_trials(connection, partial(run_alone, load_task(partial(loads, task))), threads=threads)

    def meet(self, ranks: int) -> _Meeting:
        """Open a port for the other ranks, as rank 0."""
        host = ray.util.get_node_ip_address()
        self._came: queue.SimpleQueue[tuple[int, Connection]] = queue.SimpleQueue()
        self._reception = Reception(host, lambda rank, line: self._came.put((rank, line)))
        self._port = ReservedPort(host)
        return _Meeting([self._reception.invite(rank) for rank in range(ranks)], host, self._port.number)

    def take_part(
        self,
        rank: int,
        ranks: int,
        meeting: _Meeting,
        invitation: Invitation,
        task: Any,
        threads: int,
        path: Sequence[str],
        directory: str,
    ) -> None:
        """Be a rank of a worker: meet the others, and run trials until the driver, or another rank, is gone."""
        _prepare(threads, path, directory)
        os.environ.update(environment(rank, ranks, meeting.port, host=meeting.host, apart=True))
        if rank == 0:
            lines = dict(self._came.get() for _ in range(ranks - 1))
            self._reception.close()
            group = meet_on(0, ranks, [lines[other] for other in range(1, ranks)])
            connection = invitation.accept()
        else:
            connection = meeting.invitations[rank].accept()
            group = meet_on(rank, ranks, [connection])
        prepare_process(connection)
        with suppress(EOFError, ConnectionError):
            take_part(connection, group, load_task(partial(loads, task)), threads=threads)


def _prepare(threads: int, path: Sequence[str], directory: str) -> None:
    """Make an actor's process one in which trials can run."""
    with suppress(OSError):  # this node has no such directory
        os.chdir(directory)
    os.environ.update(Slot(threads=threads).environment)  # the devices are Ray's to set
    see_modules(path)
    # Ray's own streams go elsewhere than the descriptors, which are what follows a trial to its file
    sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def connect() -> bool:
    """Be connected to Ray; whether it was done here."""
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://") or ray.util.client.ray.is_connected():
        raise SettingError(
            f"the driver must run inside Ray's cluster, got Ray Client ({address or 'ray://'}); start the script there, "
            "for example with ray job submit"
        )
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a Ray that is started here
    where: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        remedy = (
            "check RAY_ADDRESS, or call ray.init yourself before the search"
            if address
            else "it keeps a token in ~/.ray: let HOME be writable, or set RAY_AUTH_TOKEN, or RAY_AUTH_MODE=disabled; "
            "or join a cluster with RAY_ADDRESS"
        )
        raise SettingError(
            f"Ray cannot be {'joined at ' + address if address else 'started here'}: "
            f"{type(error).__name__}: {error}; {remedy}"
        ) from error
    return True


def _nodes() -> list[Mapping[str, float]]:
    """What each living node has in all."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _checked(resources: Mapping[str, float]) -> dict[str, float]:
    """Resources by Ray's names. Raises SettingError for amounts that cannot be."""
    if not isinstance(resources, Mapping) or not resources:
        raise SettingError(f'resources_per_trial must be a dict such as {{"cpu": 1, "gpu": 0.5}}, got {resources!r}')
    for name, amount in resources.items():
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < math.inf:
            raise SettingError(f"resources_per_trial must be numbers from 0, got {amount!r} for {name!r}")
        if name.lower() == "gpu" and amount > 1 and amount != int(amount):
            raise SettingError(f"resources_per_trial may share one GPU or take whole ones, got {amount!r} GPUs")
    if not any(resources.values()):
        raise SettingError(f"resources_per_trial must ask for something, got {dict(resources)!r}")
    return {_NAMES.get(name.lower(), name): amount for name, amount in resources.items()}


def _said(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _loss(error: BaseException | None) -> Loss:
    """How an actor was lost, from what Ray says of it."""
    text = "" if error is None else str(error)
    if error is None:
        return Loss("left")
    if isinstance(error, ray.exceptions.RayTaskError):
        return Loss(f"could not start: {error.cause}", text)
    if "node has died" in text or "node was terminated" in text or "preempted" in text:
        return Loss("died with its node", text, with_place=True)
    if "running low on memory" in text or isinstance(error, ray.exceptions.OutOfMemoryError):
        return Loss("was killed by Ray, for its node was running out of memory", text)
    if isinstance(error, ray.exceptions.RayActorError):
        return Loss("died (it was killed, crashed, or out of memory)", text)
    return Loss(f"could not start: {text.splitlines()[0] if text else type(error).__name__}", text)
