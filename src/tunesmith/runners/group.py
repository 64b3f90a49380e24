"""The line between the ranks of a job: messages to and from rank 0, and the loss of a rank noticed at once.

It consists of sockets of its own, one from each rank to rank 0. The training's collectives cannot carry it: a rank may
be stuck in one of them, and a process group that has lost a rank carries nothing any more. A process that ends closes
its socket, whatever ended it; of a host that is gone, the kernels at both ends take notice (keep-alive), not a thread
of Python's that a busy interpreter would delay.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from tunesmith.errors import RankLostError
from tunesmith.runners.pickling import dumps, loads

MEETING_LIMIT = 900.0  # seconds in which all ranks must have begun the search
_NOTICE_AFTER = 30.0  # seconds of waiting for the others, after which it is said for whom
_SILENCE = 6  # seconds without a sign of life from the other end's kernel
_ANSWER_TIME = 10.0  # seconds for the words of a beginning, and for all to leave


class Store(Protocol):
    """What is used of torch's stores to exchange the address of rank 0."""

    def set(self, key: str, value: str) -> None: ...  # noqa: D102
    def get(self, key: str) -> bytes: ...  # noqa: D102
    def wait(self, keys: list[str], timeout: timedelta) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Peer:
    """Another rank's process."""

    rank: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"

    @property
    def gone(self) -> str:
        """What is known when it hangs up in the middle of a search; its exit code is its launcher's to tell."""
        return f"{self} is gone: it was killed, by somebody or by the system for want of memory, or has left the search"


class Group:
    """One rank's end of the line. `peers` are all others on rank 0, and rank 0 on the others."""

    def __init__(self, rank: int, size: int, connections: dict[Connection, Peer]) -> None:
        self.rank = rank
        self.size = size
        self._connections = connections
        self._lock = threading.Lock()
        self._leaving = False
        self._reader: threading.Thread | None = None
        _OPEN.add(self)

    @property
    def peers(self) -> list[Peer]:
        """The ranks at the other ends."""
        return list(self._connections.values())

    def listen(self, on_message: Callable[[Peer, Any], None], on_loss: Callable[[Peer], None]) -> None:
        """Call `on_message` for all that arrives and `on_loss` for a rank that is gone, in a thread of its own."""
        self._reader = threading.Thread(target=self._read, args=(on_message, on_loss), daemon=True)
        self._reader.start()

    def send(self, message: Any) -> None:
        """Send to all peers; one that is gone is noticed by the reader."""
        data = dumps(message)
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.send_bytes(data)

    def leave(self, last: Any = None) -> None:
        """Say the last word and hang up; rank 0 waits until the others have hung up, so that all leave together."""
        self._leaving = True
        if last is not None:
            self.send(last)
        if self.rank > 0:
            for connection in self._connections:
                _shut(connection)
        if self._reader is not None:
            self._reader.join(_ANSWER_TIME)
        self.close()

    def close(self) -> None:
        """Close this end."""
        _OPEN.discard(self)
        self._leaving = True
        for connection in self._connections:
            if not connection.closed:
                _shut(connection)
                connection.close()

    def _read(self, on_message: Callable[[Peer, Any], None], on_loss: Callable[[Peer], None]) -> None:
        there = dict(self._connections)
        try:
            while there:
                for source in wait(list(there)):
                    connection = next(c for c in there if c is source)
                    try:
                        data = connection.recv_bytes()
                    except (EOFError, OSError):
                        peer = there.pop(connection)
                        if not self._leaving:
                            on_loss(peer)
                    else:
                        on_message(there[connection], loads(data))
        except Exception:  # noqa: BLE001
            if self._leaving:
                return
            traceback.print_exc()  # without its reader this rank would wait for ever
            os._exit(1)


def connect(rank: int, size: int, lines: Sequence[Connection]) -> Group:
    """The group of ranks that have these lines: rank 0 to each of the others, in order, they to rank 0."""
    hello = json.dumps([rank, socket.gethostname(), os.getpid()]).encode()
    for line in lines:
        line.send_bytes(hello)
    return Group(rank, size, {line: Peer(*json.loads(line.recv_bytes(1000))) for line in lines})


def meet(store: Store, rank: int, size: int, *, key: str, one_host: bool) -> Group:
    """Join the ranks that call this with the same key. Raises RankLostError when some do not come."""
    if rank == 0:
        return _host(store, size, key=key, one_host=one_host)
    until = time.monotonic() + MEETING_LIMIT
    while True:
        try:
            store.wait([key], timedelta(seconds=1))  # short, so that signals are heard
            break
        except Exception as error:  # torch raises DistStoreError or RuntimeError, by version
            if time.monotonic() > until:
                raise RankLostError(
                    f"all ranks must begin the search within {MEETING_LIMIT:g} s, and rank 0 has not; every rank must "
                    "make the same call"
                ) from error
    return _join(json.loads(store.get(key)), rank, size)


def _host(store: Store, size: int, *, key: str, one_host: bool) -> Group:
    server = socket.create_server(("127.0.0.1" if one_host else "", 0), backlog=size)
    secret = secrets.token_hex(32)
    with server:
        address = {"host": socket.gethostname(), "port": server.getsockname()[1], "secret": secret}
        store.set(key, json.dumps(address))
        connections: dict[Connection, Peer] = {}
        started, noticed = time.monotonic(), False
        while len(connections) < size - 1:
            waited = time.monotonic() - started
            missing = sorted({*range(1, size)} - {peer.rank for peer in connections.values()})
            if waited > _NOTICE_AFTER and not noticed:
                noticed = True
                print(f"tunesmith: waiting for rank {_listed(missing)} to begin the search", file=sys.stderr)  # noqa: T201
            if waited > MEETING_LIMIT:
                raise RankLostError(
                    f"all ranks must begin the search within {MEETING_LIMIT:g} s, and rank {_listed(missing)} has not; "
                    "every rank must make the same call"
                )
            server.settimeout(1.0)
            with suppress(TimeoutError):
                accepted, _ = server.accept()
                found = _welcome(accepted, secret)
                if found is not None:
                    connections[found[0]] = found[1]
    return Group(0, size, connections)


def _welcome(accepted: socket.socket, secret: str) -> tuple[Connection, Peer] | None:
    """The connection of a rank; None for anybody else who has found the port."""
    connection = _connection(accepted)
    try:
        if connection.poll(_ANSWER_TIME):
            hello = json.loads(connection.recv_bytes(1000))
            if hmac.compare_digest(hello["secret"], secret):
                connection.send_bytes(json.dumps([socket.gethostname(), os.getpid()]).encode())
                return connection, Peer(hello["rank"], hello["host"], hello["pid"])
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        pass  # not one of ours
    connection.close()
    return None


def _join(address: dict[str, Any], rank: int, size: int) -> Group:
    here = socket.gethostname()
    hosts = [os.environ.get("MASTER_ADDR", ""), address["host"]]
    if address["host"] == here:
        hosts.insert(0, "127.0.0.1")
    failures = []
    for host in filter(None, hosts):
        try:
            connection = _connection(socket.create_connection((host, address["port"]), timeout=_ANSWER_TIME))
            hello = {"secret": address["secret"], "rank": rank, "host": here, "pid": os.getpid()}
            connection.send_bytes(json.dumps(hello).encode())
            if connection.poll(_ANSWER_TIME):
                return Group(rank, size, {connection: Peer(0, *json.loads(connection.recv_bytes(1000)))})
        except (OSError, EOFError) as error:  # noqa: PERF203  two or three addresses
            failures.append(f"{host}: {error}")
    raise RankLostError(
        f"rank {rank} must reach rank 0 at port {address['port']}, and cannot ({'; '.join(failures) or 'no answer'}); "
        "open the hosts' ports to one another"
    )


def _connection(sock: socket.socket) -> Connection:
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", 2),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", _SILENCE // 2),
        ("TCP_USER_TIMEOUT", 1000 * _SILENCE),
    ):
        if hasattr(socket, option):  # not every system has all of them
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return Connection(sock.detach())


def _shut(connection: Connection) -> None:
    """Hang up; the other end reads what was sent before."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as sock:
        sock.shutdown(socket.SHUT_WR)


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


_OPEN: weakref.WeakSet[Group] = weakref.WeakSet()


def _forget_in_child() -> None:
    """A forked child (a data loader's worker) must not hold the line of a rank that has died."""
    for group in _OPEN:
        for connection in group._connections:  # noqa: SLF001
            if not connection.closed:
                connection.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
