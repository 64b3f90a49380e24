"""The ranks runner keeps the contract; with the ranks in processes of their own, on sockets of loopback."""

import multiprocessing
from datetime import timedelta

from tunesmith.runners.collectives import Collective
from tunesmith.runners.follower import follow
from tunesmith.runners.group import meet
from tunesmith.runners.rank_messages import Leave
from tunesmith.runners.ranks import RanksRunner
from tunesmith.testing.runners import RunnerContract

CONTEXT = multiprocessing.get_context("forkserver")


class PipeStore:
    """One value, from rank 0 to the others."""

    def __init__(self, pipes):
        self.pipes = pipes

    def set(self, key, value):
        for pipe in self.pipes:
            pipe.send(value)

    def wait(self, keys, timeout: timedelta):
        if not self.pipes[0].poll(timeout.total_seconds()):
            raise RuntimeError("not yet")

    def get(self, key):
        return self.pipes[0].recv().encode()


def be_rank(rank, size, pipe, task):
    group = meet(PipeStore([pipe]), rank, size, key="k", one_host=True)
    follow(group, Collective(None, rank, size, key="k"), task)


class AndLeave(RanksRunner):
    """The ranks are on their own again when the runner is closed."""

    def close(self):
        super().close()
        self._group.leave(Leave(done=True, value=None))


class TestRanksRunner(RunnerContract):
    size = 2

    def make(self, task):
        CONTEXT.set_forkserver_preload(["tunesmith.runners.follower", "tunesmith.testing.runners"])
        pipes = [CONTEXT.Pipe() for _ in range(1, self.size)]
        for rank, (_, theirs) in enumerate(pipes, start=1):
            CONTEXT.Process(target=be_rank, args=(rank, self.size, theirs, task), daemon=True).start()
        group = meet(PipeStore([ours for ours, _ in pipes]), 0, self.size, key="k", one_host=True)
        return AndLeave(group, Collective(None, 0, self.size, key="k"), task)
