"""The controller of remote workers alone: 1,000 fake workers, 20,000 trials; events a second and how long an ask takes.

    python benchmarks/remote_controller.py [workers] [trials]

The workers are connections of one other process that speaks their protocol: each trial asks for one value and ends.
"""

import argparse
import multiprocessing
import resource
import selectors
import statistics
import time
from collections import deque

from optuna.distributions import FloatDistribution

from tunesmith.runners import Outcome
from tunesmith.runners.pickling import dumps, loads
from tunesmith.runners.remote import RemoteRunner
from tunesmith.runners.worker import Attempt, Call
from tunesmith.trial import CONTINUE, Assignment, TrialState

READY, BEGUN = dumps("ready"), dumps("begun")
ASK = dumps(Call("suggest", ("x", FloatDistribution(0, 1))))
END = dumps(Outcome(TrialState.COMPLETE, (0.5,)))


class Fakes:
    """Launches workers as connections of one process."""

    def __init__(self, workers):
        self.workers = workers
        self.invitations = multiprocessing.get_context("fork").SimpleQueue()
        self.latencies = multiprocessing.get_context("fork").SimpleQueue()
        self.process = multiprocessing.get_context("fork").Process(target=self.play, daemon=True)
        self.process.start()

    def room(self):
        return self.workers

    def launch(self, invitation, lost):  # noqa: ARG002  none is ever lost
        self.invitations.put(invitation)

    def kill(self, worker):
        raise AssertionError(f"worker {worker} is to be killed")

    def waited_for(self):
        return "nothing"

    def close(self):
        self.process.terminate()
        self.process.join()

    def play(self):
        """Be all workers."""
        selector, asked, latencies = selectors.DefaultSelector(), {}, deque(maxlen=100_000)
        for _ in range(self.workers):
            connection = self.invitations.get().accept()
            selector.register(connection, selectors.EVENT_READ)
            connection.send_bytes(READY)
        while True:
            for key, _ in selector.select():
                connection = key.fileobj
                try:
                    message = loads(connection.recv_bytes())
                except EOFError:
                    return
                if isinstance(message, Attempt):
                    if message.assignment.number < 0:
                        self.latencies.put(list(latencies))
                        continue
                    connection.send_bytes(BEGUN)
                    asked[connection] = time.perf_counter()
                    connection.send_bytes(ASK)
                else:
                    latencies.append(time.perf_counter() - asked[connection])
                    connection.send_bytes(END)


class Link:
    """Answers at once."""

    events = 0

    def suggest(self, name, distribution):  # noqa: ARG002
        Link.events += 1
        return 0.5

    def decide(self):
        return CONTINUE


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workers", nargs="?", type=int, default=1000)
    parser.add_argument("trials", nargs="?", type=int, default=20_000)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fakes, link = Fakes(options.workers), Link()
    runner = RemoteRunner(fakes, host="127.0.0.1")
    begun = ended = 0
    started = time.perf_counter()
    runner.start(Assignment(0), link)
    begun = 1
    while runner.slots < options.workers:
        ended += len(list(runner.events(1.0)))
        if begun == ended:
            runner.start(Assignment(begun), link)
            begun += 1
    print(f"{options.workers} workers have come in {time.perf_counter() - started:.1f} s")
    Link.events, first = 0, ended
    started, cpu = time.perf_counter(), time.process_time()
    while ended < options.trials:
        while begun < options.trials and begun - ended < runner.slots:
            runner.start(Assignment(begun), link)
            begun += 1
        ended += len(list(runner.events(1.0)))
    seconds, used, trials = time.perf_counter() - started, time.process_time() - cpu, ended - first
    events = 3 * trials  # begun, ask, end
    runner.start(Assignment(-1), link)
    latencies = sorted(fakes.latencies.get())
    runner.close()
    print(
        f"{trials} trials in {seconds:.1f} s ({used:.1f} s CPU of the driver): {trials / seconds:.0f} trials and "
        f"{events / seconds:.0f} events a second ({events / used:.0f} a CPU second)"
    )
    print(
        f"an ask takes {statistics.median(latencies) * 1e3:.2f} ms (median), "
        f"{latencies[int(0.99 * len(latencies))] * 1e3:.2f} ms (99 %)"
    )


if __name__ == "__main__":
    main()
