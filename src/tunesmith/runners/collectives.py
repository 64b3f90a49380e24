"""The process group of the training, as torch has it: whose rank this is, how a broken group is left and made again.

The group is the user's (or accelerate's, for them). After a trial that failed on any rank its collectives do not match
between ranks any more: what one rank began, another never joined. Then all ranks leave it and make it anew, with the
same backend and timeout, over the same store under another prefix. Nothing here assumes a backend.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psutil

from tunesmith.runners.group import Group, meet

_SETTLING = 0.05  # seconds for the group's threads to end what was cut off
_LEAVING_LIMIT = 30.0  # seconds after which a process is ended that cannot leave its group

_searches = 0  # begun by this process; all ranks begin the same ones


@dataclass(frozen=True)
class Terms:
    """What a process group is made with."""

    backend: str
    timeout: timedelta


def place() -> tuple[int, int]:
    """The rank of this process and the number of ranks: those of the process group, else those the launcher has set."""
    dist = _initialized()
    if dist is not None:
        return dist.get_rank(), dist.get_world_size()
    if "RANK" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", "1"))


def join() -> tuple[Group, Collective] | None:
    """Meet the other ranks: the line to them, and the process group; None when this process is on its own.

    Raises RankLostError when some do not come.
    """
    global _searches  # noqa: PLW0603
    rank, size = place()
    if size == 1:
        return None
    store = _store()
    _searches += 1
    key = f"tunesmith/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_searches}"
    one_host = os.environ.get("LOCAL_WORLD_SIZE") == str(size)
    return meet(store, rank, size, key=key, one_host=one_host), Collective(store, rank, size, key=key)


def _store() -> Any:
    if _initialized() is not None:
        from torch.distributed import distributed_c10d  # noqa: PLC0415  torch is loaded where it is used

        return distributed_c10d._get_default_store()  # noqa: SLF001  the group may have been made from anything
    from torch.distributed import rendezvous  # noqa: PLC0415

    return next(rendezvous("env://"))[0]


class Collective:
    """One rank's side of the process group. `terms` are those of the last group, None if there was none.

    A group is made anew over `store`, or, when that is None, over the one it had.
    """

    def __init__(self, store: Any, rank: int, size: int, *, key: str) -> None:
        self.terms: Terms | None = None
        self._key = key
        self._store = store
        self._held: Any = None  # the store of a group that was left, when there is no other
        self._rank = rank
        self._size = size
        self._renewals = 0
        self._aborted = False
        self._aborting = threading.Lock()
        # servers that were there before the group are not its own: a Ray actor's, over which Ray reaches it
        self._others = set() if _initialized() is not None else _native_servers(psutil.Process().net_connections("tcp"))
        self.note()

    def note(self) -> None:
        """Note the terms of the process group at hand."""
        dist = _initialized()
        if dist is None:
            return
        group = dist.distributed_c10d._get_default_group()  # noqa: SLF001  no public way to ask for the timeout
        timeouts = []
        for device in group._device_types:  # noqa: SLF001
            options = getattr(group._get_backend(device), "options", None)  # noqa: SLF001
            timeouts.append(getattr(options, "_timeout", None))
        known = [t for t in timeouts if t is not None]
        self.terms = Terms(dist.get_backend_config(), max(known, default=dist.distributed_c10d.default_pg_timeout))

    def abort(self) -> None:
        """End what this rank has begun or waits for with the others; its waiting threads are freed with an error.

        May be called from any thread. The group is of no use afterwards.
        """
        with self._aborting:
            dist = _initialized()
            if dist is None or self._aborted:
                return
            self._aborted = True
            self.note()
            self._held = _store()
            for group in list(dist.distributed_c10d._world.pg_map):  # noqa: SLF001  groups that users make are stuck too
                with suppress(AttributeError, RuntimeError):  # what cannot abort is freed by its connections or timeout
                    group.abort()
            if "gloo" in dist.get_backend_config():
                _cut_connections(self._others)

    def leave(self) -> None:
        """Leave the process group: nothing of it is left in this process."""
        if _initialized() is None:
            return
        self.abort()
        # Torch joins the group's threads with the interpreter locked, for which they may wait: they must be idle by then
        time.sleep(_SETTLING)
        faulthandler.dump_traceback_later(_LEAVING_LIMIT, exit=True)  # needs no interpreter to end this process
        try:
            _initialized().destroy_process_group()
        finally:
            faulthandler.cancel_dump_traceback_later()

    def renew(self, terms: Terms) -> None:
        """Leave what is left of the process group, and make it anew; a collective operation of all ranks."""
        import torch.distributed as dist  # noqa: PLC0415

        self.leave()
        self._aborted = False
        self._renewals += 1
        base = next((s for s in (self._store, self._held) if s is not None), None) or _store()
        store = dist.PrefixStore(f"{self._key}/{self._renewals}", _underlying(base))
        hook = sys.excepthook
        dist.init_process_group(
            terms.backend, store=store, rank=self._rank, world_size=self._size, timeout=terms.timeout
        )
        self._held = None  # a server in this process ends with its last user, which is the group
        sys.excepthook = hook  # torch puts the rank before each line of a traceback, once more with each group

    def forget(self) -> None:
        """Remove the addresses of the group at hand from the store, once a rank is lost.

        torchrun starts all ranks again over the same store, and torch would find the addresses of the dead there
        (pytorch issue 135712).
        """
        with suppress(AttributeError, RuntimeError):  # a store without a list, or gone with rank 0: nothing is found
            store = _underlying(self._store)
            for key in store.list_keys():
                if key.startswith("default_pg/"):
                    store.delete_key(key)


def _underlying(store: Any) -> Any:
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    return store


def _initialized() -> Any:
    """torch.distributed when it has a process group, else None; never loads torch."""
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def _native_servers(connections: Sequence[Any]) -> set[int]:
    """The ports at which native code listens in this process."""
    ours = {s.fileno() for s in gc.get_objects() if issubclass(type(s), socket.socket)}
    return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN and c.fd not in ours}


def _cut_connections(others: AbstractSet[int]) -> None:
    """Shut the connections that others have made to native code in this process: gloo's, which has no other way.

    Of each pair of ranks one has accepted the other's connection, so that all are shut when all ranks do this. The
    `others` among the servers, those that Python code keeps, and torch's store, go on.
    """
    connections = psutil.Process().net_connections("tcp")
    ports = _native_servers(connections) - others - {int(os.environ.get("MASTER_PORT", "0"))}
    for connection in connections:
        if connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port in ports:
            with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as sock:
                sock.shutdown(socket.SHUT_RDWR)
