"""The Slurm runner: trials in a pool of workers that are jobs of one array, submitted by submitit."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import MissingDependencyError, SettingError
from tunesmith.runners import Task
from tunesmith.runners.pickling import dumps_task, loads
from tunesmith.runners.reception import Invitation
from tunesmith.runners.remote import Loss, RemoteRunner
from tunesmith.runners.slots import Slot
from tunesmith.runners.worker import load_task, module_path, prepare_process, run_alone, run_trials, see_modules

try:
    import submitit
except ImportError as error:
    raise MissingDependencyError('runner "slurm" needs submitit: pip install "tunesmith[slurm]"') from error

_NAMES = {"cpu": "cpus_per_task", "gpu": "gpus_per_node", "memory": "mem_gb"}
_DEFAULTS = {"cpus_per_task": 1, "timeout_min": 240}
_LOOK_EVERY = 0.5  # seconds between looks at the jobs; submitit asks Slurm itself no more than once a minute
_GOODBYE = 10.0  # seconds for cancelled jobs to be gone
_GONE = ("CANCELLED", "PREEMPTED", "NODE_FAIL", "TIMEOUT", "BOOT_FAIL", "REVOKED")


class SlurmRunner(RemoteRunner):
    """Runs trials in Slurm jobs, one trial in each at a time, which live until the search ends or their time is up.

    `workers` jobs are submitted at once, as an array; one that is lost (preempted, its node gone, its time over) is
    submitted again. `resources_per_trial` are what a job asks for: {"cpu": 4, "gpu": 1, "memory": 32 (GB)}, and what
    submitit's AutoExecutor takes by its own names ("timeout_min", default 240; "slurm_partition", "slurm_account"...).
    {"cluster": "local"} runs the jobs on this machine, to try it. The working directory must be on storage that all nodes
    share; the nodes must reach the driver's. `trial_timeout` is in seconds per attempt, `bare` as in `WorkersRunner`.

    Raises SettingError for resources that submitit does not take, and where there is no Slurm.
    """

    def __init__(
        self,
        task: Task,
        *,
        workers: int | Literal["auto"],
        resources_per_trial: Mapping[str, Any] | None = None,
        trial_timeout: float | None = None,
        bare: Sequence[object] = (),
    ) -> None:
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise SettingError(
                f"workers must be a whole number from 1 with Slurm, for how many jobs it may have is yours to say, got {workers!r}"
            )
        pickled = dumps_task(task, bare=bare)
        launcher = SlurmLauncher(pickled, workers=workers, resources=resources_per_trial or {})
        try:
            super().__init__(launcher, host=launcher.host, trial_timeout=trial_timeout)
        except BaseException:
            launcher.close()
            raise


class SlurmLauncher:
    """Brings up workers as jobs."""

    def __init__(self, pickled: bytes, *, workers: int, resources: Mapping[str, Any]) -> None:
        settings = {**_DEFAULTS, **{_NAMES.get(name, name): value for name, value in resources.items()}}
        cluster = settings.pop("cluster", "slurm")
        self.host = "127.0.0.1" if cluster == "local" else _address()
        self._workers = workers
        self._threads = max(1, int(settings["cpus_per_task"]))
        # only this user may look: the jobs' files hold the key by which workers prove themselves
        self._folder = Path(tempfile.mkdtemp(prefix=".tunesmith-slurm-", dir=Path.cwd()))
        self._jobs: dict[int, Any] = {}
        self._closed = threading.Event()
        try:
            self._executor = submitit.AutoExecutor(folder=self._folder, cluster=cluster)
            self._executor.update_parameters(name="tunesmith", **settings)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            shutil.rmtree(self._folder)
            raise SettingError(
                f"resources_per_trial must be what submitit takes, on a machine that has Slurm's commands, got {dict(resources)}: "
                f'{error}; {{"cluster": "local"}} tries it on this machine'
            ) from error
        self._task = self._folder / "task.pkl"
        self._task.write_bytes(pickled)
        self._lost: Callable[[int, Loss], None] | None = None
        self._watcher = threading.Thread(target=self._watch, name="tunesmith-slurm", daemon=True)

    def room(self) -> int:
        """The number given."""
        return self._workers

    def launch(self, invitations: Sequence[Invitation], lost: Callable[[int, Loss], None]) -> None:
        """Submit jobs, as one array."""
        serve = partial(_serve, task=self._task, threads=self._threads, path=module_path(), directory=Path.cwd())
        jobs = self._executor.map_array(serve, invitations)
        self._jobs.update({i.worker: job for i, job in zip(invitations, jobs, strict=True)})
        if self._lost is None:
            self._lost = lost
            self._watcher.start()

    def kill(self, worker: int) -> None:
        """Cancel a job."""
        job = self._jobs.pop(worker, None)
        if job is not None:
            job.cancel(check=False)

    def waited_for(self) -> str:
        """What the jobs are doing."""
        states = sorted({str(job.state).lower() for job in self._jobs.values()})
        return f"Slurm has not started any of {len(self._jobs)} jobs ({', '.join(states)}); squeue says why"

    def close(self) -> None:
        """Cancel all jobs and remove their files."""
        self._closed.set()
        if self._watcher.is_alive():
            self._watcher.join()
        jobs = list(self._jobs.values())
        for worker in list(self._jobs):
            self.kill(worker)
        until = time.monotonic() + _GOODBYE
        while not all(_is_over(job) for job in jobs) and time.monotonic() < until:
            time.sleep(0.05)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _watch(self) -> None:
        while not self._closed.wait(_LOOK_EVERY):
            for worker, job in list(self._jobs.items()):
                if _is_over(job) and self._jobs.pop(worker, None) is not None and self._lost is not None:
                    self._lost(worker, _loss(job))


def _is_over(job: Any) -> bool:
    return bool(job.done())


def _loss(job: Any) -> Loss:
    """How a worker was lost, from what is known of its job."""
    state = str(job.state).upper()
    said = job.stderr() or job.stdout() or ""
    if state.split()[0] in _GONE:
        return Loss(f"was ended by Slurm ({state.lower()})", said[-2000:], with_place=True)
    return Loss("died (it was killed, crashed, or out of memory)", said[-2000:] or None)


def _serve(invitation: Invitation, *, task: Path, threads: int, path: Sequence[str], directory: Path) -> None:
    """In a job: come to the driver and run its trials until it is gone, or Slurm wants the place back."""
    with suppress(OSError):  # this node has no such directory
        os.chdir(directory)
    os.environ.update(Slot(threads=threads).environment)  # the devices are Slurm's to set
    see_modules(path)
    # a warning of preemption, or of the end of its time: the driver gives the trial to another, from its last checkpoint
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    connection = invitation.accept()
    prepare_process(connection)
    with suppress(EOFError, ConnectionError):
        run_trials(connection, partial(run_alone, load_task(lambda: loads(task.read_bytes()))), threads=threads)


def _address() -> str:
    """Where others reach this machine: the address of the way out; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            line.connect(("10.255.255.255", 1))
        except OSError:
            return socket.gethostbyname(socket.gethostname())
        return str(line.getsockname()[0])
