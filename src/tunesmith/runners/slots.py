"""The slots of a machine: which devices and how many threads each worker process gets."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from tunesmith.errors import SettingError

_THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


MOST_RANKS = 100  # of a trial on one machine; the kernel limits the descriptors that it hands over at a time


@dataclass(frozen=True)
class Slot:
    """A place for one worker: `devices` are entries of CUDA_VISIBLE_DEVICES, () keeps it to the CPU, None leaves it as it is.

    A worker of several `ranks` is as many processes, each with so many `threads`; they share the devices.
    """

    devices: tuple[str, ...] | None = None
    threads: int = 1
    ranks: int = 1

    @property
    def environment(self) -> dict[str, str]:
        """The variables that keep a process to its slot; to be set before torch is loaded."""
        devices = {} if self.devices is None else {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)}
        return {**dict.fromkeys(_THREAD_COUNTS, str(self.threads)), **devices}


def plan_slots(
    workers: int | Literal["auto"],
    *,
    threads_per_trial: int = 1,
    gpus_per_trial: float | None = None,
    ranks_per_trial: int = 1,
    gpus: Sequence[str] | None = None,
    cores: int | None = None,
) -> tuple[Slot, ...]:
    """Divide the machine into slots.

    With GPUs, a trial gets one of them unless `gpus_per_trial` says otherwise: a share (0.25: four trials on a GPU), a
    whole number, or 0 for none. `"auto"` makes as many slots as fit: by GPUs, else by cores. A number of workers that
    exceeds the GPUs shares them evenly when `gpus_per_trial` is not given. Several ranks have a GPU each, or none. Where no
    GPU is known, none is hidden either, unless `gpus_per_trial` is 0: there may be devices of a kind that is not looked for.
    `gpus` and `cores` are found when not given.

    Raises SettingError when the numbers cannot be, or do not fit the machine.
    """
    if workers != "auto" and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise SettingError(f'workers must be a whole number from 1, or "auto", got {workers!r}')
    check_count("threads_per_trial", threads_per_trial)
    check_count("ranks_per_trial", ranks_per_trial, most=MOST_RANKS)
    _check_share(gpus_per_trial)
    found = () if gpus_per_trial == 0 else tuple(visible_gpus() if gpus is None else gpus)
    if gpus_per_trial and not found:
        raise SettingError(
            f"gpus_per_trial must be 0 or None without a GPU, got {gpus_per_trial:g} and no GPU is visible"
        )
    if not found:
        fit = (usable_cores() if cores is None else cores) // (threads_per_trial * ranks_per_trial)
        hidden = () if gpus_per_trial == 0 else None
        return (Slot(hidden, threads_per_trial, ranks_per_trial),) * (max(1, fit) if workers == "auto" else workers)
    if ranks_per_trial > 1:
        gpus_per_trial = _one_each(ranks_per_trial, gpus_per_trial)
    if gpus_per_trial is None:
        count = len(found) if workers == "auto" else workers
        return tuple(Slot((found[i % len(found)],), threads_per_trial) for i in range(count))
    places = _places(found, gpus_per_trial)
    if workers == "auto":
        workers = len(places)
    if not 1 <= workers <= len(places):
        raise SettingError(
            f"workers x gpus_per_trial must fit the {len(found)} visible GPU(s), got {workers} x {gpus_per_trial:g}; "
            f'use workers="auto" or a smaller share'
        )
    return tuple(Slot(devices, threads_per_trial, ranks_per_trial) for devices in places[:workers])


def ranks_of(gpus_per_trial: float | None, ranks_per_trial: int | None) -> int:
    """How many ranks a trial has: one for each of several GPUs, where it is not said."""
    if ranks_per_trial is not None:
        return ranks_per_trial
    several = gpus_per_trial is not None and math.isfinite(gpus_per_trial) and gpus_per_trial > 1
    return int(gpus_per_trial) if gpus_per_trial is not None and several else 1


def check_count(name: str, count: int, *, most: float = math.inf) -> None:
    """Raise SettingError unless `count` is a whole number from 1 to `most`."""
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        to = "" if most == math.inf else f" to {most}"
        raise SettingError(f"{name} must be a whole number from 1{to}, got {count!r}")


def _one_each(ranks: int, gpus_per_trial: float | None) -> int:
    if gpus_per_trial not in (None, ranks):
        raise SettingError(
            "gpus_per_trial must be ranks_per_trial, for a GPU each, or 0, for ranks on the CPU; got "
            f"{gpus_per_trial:g} for {ranks} ranks"
        )
    return ranks


def _check_share(share: float | None) -> None:
    if share is None:
        return
    whole = math.isfinite(share) and share >= 0 and float(share).is_integer()
    if not whole and not 0 < share < 1:
        raise SettingError(f"gpus_per_trial must be a share between 0 and 1, or a whole number, got {share!r}")


def _places(gpus: Sequence[str], share: float) -> list[tuple[str, ...]]:
    if share < 1:
        each = math.floor(1 / share + 1e-9)  # 1 / 0.1 is 10, whatever the rounding
        return [(gpu,) for _ in range(each) for gpu in gpus]  # one on each GPU before the second on any
    size = int(share)
    return [tuple(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as entries of CUDA_VISIBLE_DEVICES; found without starting CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        entries = [entry.strip() for entry in named.split(",")]
        stop = next((i for i, entry in enumerate(entries) if entry in ("", "-1", "NoDevFiles")), len(entries))
        return entries[:stop]  # CUDA, too, ends the list at the first entry that is none
    with suppress(ImportError):
        nvml = import_module("pynvml")  # the package nvidia-ml-py
        with suppress(nvml.NVMLError):
            nvml.nvmlInit()
            try:
                return [str(i) for i in range(nvml.nvmlDeviceGetCount())]
            finally:
                nvml.nvmlShutdown()
    with suppress(OSError):
        return [str(i) for i in range(sum(1 for _ in Path("/proc/driver/nvidia/gpus").iterdir()))]
    torch = sys.modules.get("torch")  # knows of more: AMD's, and NVIDIA's in Windows' Linux
    return [] if torch is None or not torch.cuda.is_available() else [str(i) for i in range(torch.cuda.device_count())]
