"""A search that takes in workers of other processes: the gate where they come in, and the way there.

The gate is a reception in a folder that only this user may enter. A file in the study's directory, which only this user
may read, says where it is, with the key that a newcomer must know.
"""

from __future__ import annotations

import json
import os
import queue
import socket
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from pathlib import Path

from tunesmith.errors import SettingError, TunesmithError
from tunesmith.folders import GATE
from tunesmith.runners.reception import Invitation, Reception

_SETUP_LIMIT = 10.0  # seconds for a newcomer to say what its worker is to load


class Gate:
    """The driver's end; readable, for `select` and `wait`, when a worker has come in."""

    def __init__(self, directory: Path, scratch: Path) -> None:
        self._file = directory / GATE
        self._arrived: queue.SimpleQueue[tuple[Connection, bytes]] = queue.SimpleQueue()
        self._bell, self._rung = socket.socketpair()
        try:
            self._reception = Reception(scratch / "gate", self._let_in)
        except TunesmithError as error:
            raise SettingError(
                f"join=True needs a socket in the temporary directory, and {scratch / 'gate'} cannot be one: {error}; "
                "set TMPDIR to a local directory with a short name"
            ) from error
        way = self._reception.invite(0)
        self._file.unlink(missing_ok=True)  # of a driver that was killed
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({"address": way.address, "key": way.key.hex()}, file)

    def fileno(self) -> int:
        """Readable when a worker has come in."""
        return self._rung.fileno()

    def arrived(self) -> tuple[Connection, bytes]:
        """The next worker's connection, and the setup that is to be sent to it."""
        self._rung.recv(1)
        return self._arrived.get()

    def close(self) -> None:
        """Let nobody in any more."""
        self._reception.close()
        self._file.unlink(missing_ok=True)
        for end in (self._bell, self._rung):
            end.close()

    def _let_in(self, _worker: int, connection: Connection) -> None:
        """Called in the reception's thread."""
        with suppress(EOFError, OSError):  # it is gone again
            # one that is suspended must not keep out all others, and this driver from its end
            if connection.poll(_SETUP_LIMIT):
                self._arrived.put((connection, connection.recv_bytes()))
                self._bell.send(b"1")
                return
        connection.close()


def knock(directory: Path, setup: bytes) -> Connection | None:
    """A connection for a worker to the driver of the study in `directory`; None when it takes nobody in."""
    try:
        place = json.loads((directory / GATE).read_text(encoding="utf-8"))
        connection = Invitation(place["address"], 0, bytes.fromhex(place["key"])).accept()
        connection.send_bytes(setup)
    except (AuthenticationError, EOFError, OSError, ValueError):  # no gate, one that is being made, or a dead one
        return None
    return connection
