"""A search that takes in workers of other processes: the gate where they come in, and the way there.

The gate is a socket in a folder that only this user may enter. A file in the study's directory, which only this user may
read, says where it is, with a key: both ends prove that they know it (an HMAC challenge) before anything is unpickled.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import socket
import threading
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from tunesmith.errors import SettingError

FILE = "study.gate"


class Gate:
    """The driver's end; readable, for `select` and `wait`, when a worker has come in."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        self._file = directory / FILE
        self._address = str(scratch / "gate")
        key = secrets.token_bytes(32)
        try:
            self._listener = Listener(self._address, "AF_UNIX", backlog=64, authkey=key)
        except OSError as error:
            raise SettingError(
                f"join=True needs a socket in the temporary directory, and {self._address} cannot be one: {error}; "
                "set TMPDIR to a local directory with a short name"
            ) from error
        self._arrived: queue.SimpleQueue[tuple[Connection, bytes]] = queue.SimpleQueue()
        self._bell, self._rung = socket.socketpair()
        self._closed = False
        self._file.unlink(missing_ok=True)  # of a driver that was killed
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"address": self._address, "key": key.hex()}, file)
        self._porter = threading.Thread(target=self._let_in, name="tunesmith-gate", daemon=True)
        self._porter.start()

    def fileno(self) -> int:
        """Readable when a worker has come in."""
        return self._rung.fileno()

    def arrived(self) -> tuple[Connection, bytes]:
        """The next worker's connection, and the setup that is to be sent to it."""
        self._rung.recv(1)
        return self._arrived.get()

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed = True
        with suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
            knock.connect(self._address)  # or the porter would wait for ever
        self._porter.join()
        self._listener.close()
        self._file.unlink(missing_ok=True)
        for end in (self._bell, self._rung):
            end.close()

    def _let_in(self) -> None:
        """In a thread of its own: a newcomer that does not answer must not keep the driver waiting."""
        while not self._closed:
            with suppress(AuthenticationError, EOFError, OSError):
                connection = self._listener.accept()
                self._arrived.put((connection, connection.recv_bytes()))
                self._bell.send(b"1")


def knock(directory: Path, setup: bytes) -> Connection | None:
    """A connection for a worker to the driver of the study in `directory`; None when it takes nobody in."""
    try:
        place = json.loads((directory / FILE).read_text(encoding="utf-8"))
        connection = Client(place["address"], "AF_UNIX", authkey=bytes.fromhex(place["key"]))
        connection.send_bytes(setup)
    except (AuthenticationError, EOFError, OSError, ValueError):  # no gate, one that is being made, or a dead one
        return None
    return connection
