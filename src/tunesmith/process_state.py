"""What TrainingArguments and accelerate keep for the whole process, kept apart from trial to trial.

TrainingArguments write the precision and the compiler that they were given into the environment, where the next ones
take them for what the launcher asked for; and accelerate refuses, or passes over, a second configuration.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate.state import AcceleratorState

_PREFIXES = ("ACCELERATE_", "FSDP_")


@contextmanager
def own_environment(args: Any) -> Iterator[None]:
    """Let new arguments find the environment of the launcher, and take away afterwards what they have written there.

    `args` are the user's: what they wrote when they were made is theirs alone.
    """
    before = _ours()
    # transformers 4 writes the precision, both versions the compiler
    written = {
        *(["ACCELERATE_MIXED_PRECISION"] if args.bf16 or args.fp16 else []),
        *(["ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_DYNAMO_MODE"] if args.torch_compile else []),
    }
    for name in written & set(before):
        del os.environ[name]
    try:
        yield
    finally:
        for name in _ours():
            del os.environ[name]
        os.environ.update(before)


def forget_accelerator(trainer: Any) -> None:
    """Let the next Trainer configure accelerate anew: its precision, and DeepSpeed, which it refuses a second time.

    Not under FSDP: accelerate takes a process group for one to shard on only once.
    """
    accelerator = vars(trainer).get("accelerator")
    if accelerator is None or not getattr(trainer, "is_fsdp_enabled", False):
        AcceleratorState._reset_state()  # noqa: SLF001  transformers' own search does so too


def _ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
