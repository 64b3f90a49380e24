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
from tunesmith.runners.group import connect
from tunesmith.runners.part import LAST_WORDS
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


class ReservedPort:
    """A port of loopback that the system gives to nobody, but on which a server of torch's may listen."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's servers do
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give it back."""
        self._socket.close()


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torch.distributed and accelerate read of a rank's place."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {**{name: str(value) for name, value in place.items()}, "MASTER_ADDR": "127.0.0.1"}


def serve(connection: Connection, lines: Sequence[Connection]) -> None:
    """Be a rank: get the setup, meet the others on the `lines`, then take part in trials until the driver is gone."""
    prepare_process(connection)
    with contextlib.suppress(EOFError, ConnectionError):
        setup: Setup = loads(connection.recv_bytes())
        group = connect(setup.rank, setup.ranks, lines)
        task = setup.load()
        collective = Collective(None, setup.rank, setup.ranks, key="tunesmith")
        if setup.rank == 0:
            runner = RanksRunner(group, collective, task)
            run_trials(connection, partial(_lead, runner), threads=setup.threads)
        else:
            follow(group, collective, partial(_take_part, task, setup.threads))


def _lead(runner: RanksRunner, assignment: Assignment, link: Link) -> Outcome:
    """Run a trial on all ranks."""
    runner.start(assignment, link)
    try:
        (ended,) = runner.events(None)
    except RankLostError:
        time.sleep(LAST_WORDS)  # the driver knows how the rank ended, and ends this one
        raise
    return ended.outcome


def _take_part(task: Task, threads: int, trial: LiveTrial) -> Any:
    """Run a trial on a rank that is not the first."""
    free_memory()
    if trial.directory != Path():
        redirect_output(trial.directory / OUTPUT)
    limit_threads(threads)
    return task(trial)
