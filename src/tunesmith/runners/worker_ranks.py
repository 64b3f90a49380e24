"""A worker of several ranks: processes that are started together, with the environment that torchrun would give them.

Rank 0 is the worker in the driver's eyes. It leads the others through each trial as it does under torchrun, in touch
with them by lines that the driver has laid; all are lost with any of them.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tunesmith.errors import RankLostError
from tunesmith.runners import Outcome, Task
from tunesmith.runners.collectives import Collective
from tunesmith.runners.follower import follow
from tunesmith.runners.group import Group, connect
from tunesmith.runners.pickling import loads
from tunesmith.runners.ranks import RanksRunner
from tunesmith.runners.worker import (
    OUTPUT,
    Setup,
    free_memory,
    limit_threads,
    prepare_process,
    redirect_output,
    run_trials,
)
from tunesmith.trial import Assignment, Link, LiveTrial

_KNOWN_BY = 30.0  # seconds for the driver to hear how a rank was lost, and to end the others


class ReservedPort:
    """A port of this host that the system gives to nobody, but on which a server of torch's may listen."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's servers do
        self._socket.bind((host, 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()


def environment(rank: int, ranks: int, port: int, *, host: str = "127.0.0.1", apart: bool = False) -> dict[str, str]:
    """What torch.distributed and accelerate read of a rank's place; `apart`: it sees no devices of the other ranks."""
    local = {"LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1} if apart else {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
    place = {"RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port, **local}
    return {**{name: str(value) for name, value in place.items()}, "MASTER_ADDR": host}


def serve(connection: Connection, lines: Sequence[Connection]) -> None:
    """Be a rank: get the setup, meet the others on the `lines`, then take part in trials until the driver is gone."""
    prepare_process(connection)
    with contextlib.suppress(EOFError, ConnectionError):
        setup: Setup = loads(connection.recv_bytes())
        group = connect(setup.rank, setup.ranks, lines)
        take_part(connection, group, setup.load(), threads=setup.threads)


def take_part(connection: Connection, group: Group, task: Task, *, threads: int) -> None:
    """Run trials with the other ranks of a group; rank 0 gets them over the `connection`, from the driver.

    Raises EOFError or ConnectionError when the driver is gone, RankLostError when a rank is, and the driver does not
    hear of it: it names the rank whose end it hears of first, so that no other ends by itself before.
    """
    collective = Collective(None, group.rank, group.size, key="tunesmith")
    patience = 2 * _KNOWN_BY
    try:
        if group.rank == 0:
            runner = RanksRunner(group, collective, task, patience=patience)
            run_trials(connection, partial(_lead, runner), threads=threads)
        else:
            follow(group, collective, partial(_run_part, task, threads), patience=patience)
    except RankLostError:
        time.sleep(_KNOWN_BY)
        raise


def _lead(runner: RanksRunner, assignment: Assignment, link: Link) -> Outcome:
    """Run a trial on all ranks."""
    runner.start(assignment, link)
    (ended,) = runner.events(None)
    return ended.outcome


def _run_part(task: Task, threads: int, trial: LiveTrial) -> Any:
    """Run a trial on a rank that is not the first."""
    free_memory()
    if trial.directory != Path():
        redirect_output(trial.directory / OUTPUT)
    limit_threads(threads)
    return task(trial)
