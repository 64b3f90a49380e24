"""What a lost network adds to a search with W&B: seconds between trials and at the end, beside a run without loss.

Twelve trials of 0.3 s against the tests' server on loopback, each case in a process of its own. "refused": the server's
port is closed; "silent": it takes connections and never answers; from before the study, or from its fifth trial on.
`python benchmarks/wandb_outage.py`
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import optuna

import tunesmith
from tunesmith.errors import ServiceError

TRIALS, STEPS, STEP = 12, 3, 0.1
CASES = ("none", "refused at the start", "silent at the start", "refused from trial 4 on", "silent from trial 4 on")


def case(mode, loss):
    """The seconds of one search: between its trials, the longest of these, within a trial beyond its own, at the end."""
    from wandb_server import WandbServer

    server = WandbServer()
    marks = []

    def lose():
        if loss.startswith("refused"):
            server._http.shutdown()
            server._http.server_close()
        elif loss.startswith("silent"):
            server.hold.clear()

    def objective(trial):
        marks.append(time.monotonic())
        if trial.number == 4 and loss.endswith("on"):
            lose()
        for step in range(1, STEPS + 1):
            time.sleep(STEP)
            trial.log({"loss": 1.0 / step}, step)
            trial.report(trial.params["x"], step)
        marks.append(time.monotonic())
        return trial.params["x"]

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update(server.environment(Path(folder) / "home"))
        if loss.endswith("start"):
            lose()
        began = time.monotonic()
        try:
            tunesmith.search(
                objective, TRIALS, directory=Path(folder) / "study", backend="wandb", mode=mode, seed=1, progress=False,
                space={"x": optuna.distributions.FloatDistribution(0, 1)},
                **({"method": "random"} if mode == "service" else {}),
            )  # fmt: skip
        except ServiceError:
            return {"error after": time.monotonic() - began}
        end = time.monotonic() - marks[-1]
    gaps = [b - a for a, b in zip(marks[1::2], marks[2::2], strict=False)]
    inside = [b - a - STEPS * STEP for a, b in zip(marks[::2], marks[1::2], strict=True)]
    return {"between": sum(gaps[1:]), "longest": max(gaps[1:]), "within": max(inside), "end": end}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "backends"))
    if args.case:
        warnings.simplefilter("ignore")
        print(json.dumps(case(*args.case)), flush=True)
        os._exit(0)
    print(
        "| mode | loss | between 10 trials, s | the longest | within a trial | at the end |\n|---|---|---|---|---|---|"
    )
    for mode in ("service", "scheduler", "offline"):
        for loss in CASES:
            command = [sys.executable, __file__, "--case", mode, loss]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if "error after" in found:
                print(
                    f"| {mode} | {loss} | an error after {found['error after']:.1f} s, no trial lost | | | |",
                    flush=True,
                )
            else:
                print(f"| {mode} | {loss} | {' | '.join(f'{v:.2f}' for v in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
