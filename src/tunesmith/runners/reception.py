"""Where workers of other processes come to the driver: they prove there that they were invited, and it proves itself too.

It is a port for workers on other machines, a socket in a folder for those on this one. Both ends prove that they know
the key (an HMAC challenge) before anything is unpickled.
"""

from __future__ import annotations

import platform
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

from tunesmith.errors import TunesmithError

Address = tuple[str, int] | str  # a host's port, or the path of a socket
_ARRIVAL_LIMIT = 30.0  # seconds for a worker to reach the driver
_PROOF_LIMIT = 10.0  # seconds for a newcomer to prove itself
_KEEP_ALIVE = {"KEEPIDLE": 15, "KEEPINTVL": 5, "KEEPCNT": 3}  # a host that is gone is noticed within half a minute


@dataclass(frozen=True)
class Invitation:
    """What a worker needs to come to the driver."""

    address: Address
    worker: int
    key: bytes = field(repr=False)

    def accept(self) -> Connection:
        """Come to the driver, from the worker. Raises ConnectionError when it cannot be reached."""
        try:
            line = _connect(self.address)
        except OSError as error:
            where = self.address if isinstance(self.address, str) else "{}:{}".format(*self.address)
            raise ConnectionError(
                f"a worker must reach the driver, and {platform.node()} cannot connect to {where} "
                f"({error}); run the driver inside the cluster, and let its nodes connect to it"
            ) from error
        connection = _as_connection(line, _ARRIVAL_LIMIT)  # longer than one that says nothing may keep others waiting
        answer_challenge(connection, self.key)
        deliver_challenge(connection, self.key)
        _without_limit(connection)
        connection.send_bytes(str(self.worker).encode())
        return connection


class Reception:
    """The driver's end, at a port of `place`, a host, or at the path of a socket.

    `arrived(worker, connection)` is called in a thread of its own.
    """

    def __init__(self, place: str | Path, arrived: Callable[[int, Connection], None]) -> None:
        self._arrived = arrived
        self._key = secrets.token_bytes(32)
        self._closed = False
        try:
            self._listener = _listen(place)
        except OSError as error:
            raise TunesmithError(f"the driver must listen at the address of its node, {place}: {error}") from error
        self._address: Address = str(place) if isinstance(place, Path) else self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._receive, name="tunesmith-reception", daemon=True)
        self._thread.start()

    def invite(self, worker: int) -> Invitation:
        """An invitation for one worker."""
        return Invitation(self._address, worker, self._key)

    def close(self) -> None:
        """Receive nobody any more."""
        self._closed = True
        with suppress(OSError):
            _connect(self._address).close()  # or the thread would wait for ever
        self._thread.join()
        self._listener.close()

    def _receive(self) -> None:
        while True:
            line, _ = self._listener.accept()
            if self._closed:
                line.close()
                return
            connection = _as_connection(line, _PROOF_LIMIT)
            try:
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                worker = int(connection.recv_bytes(64))
                _without_limit(connection)
            except Exception:  # noqa: BLE001  a stranger, whatever it says; a worker that fails says so to its launcher
                connection.close()
            else:
                self._arrived(worker, connection)


def _listen(place: str | Path) -> socket.socket:
    if not isinstance(place, Path):
        return socket.create_server((place, 0), backlog=1024)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(place))
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def _connect(address: Address) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, timeout=_ARRIVAL_LIMIT)
    line = socket.socket(socket.AF_UNIX)
    try:
        line.connect(address)
    except OSError:
        line.close()
        raise
    return line


def _as_connection(line: socket.socket, limit: float) -> Connection:
    """A socket as a connection: small messages leave at once, a host that is gone is noticed, and a silent one waited for no longer."""
    line.settimeout(None)  # blocking: the limits are the kernel's
    _set_limit(line, limit)
    if line.family == socket.AF_UNIX:
        return Connection(line.detach())
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEP_ALIVE.items():
        if hasattr(socket, f"TCP_{name}"):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}"), value)
    return Connection(line.detach())


def _set_limit(line: socket.socket, seconds: float) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), 0))


def _without_limit(connection: Connection) -> None:
    line = socket.socket(fileno=connection.fileno())
    _set_limit(line, 0)
    line.detach()
