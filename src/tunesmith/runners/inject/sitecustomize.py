"""Python loads this at the start of a script that `tunesmith run` tunes; it ties a Trainer in it to the search.

It stands on PYTHONPATH, so the processes of a launcher load it too. It needs nothing but the standard library, since the
script may live in another environment, and uses public parts of transformers only: Trainer's constructor and `train`
are wrapped, a TrainerCallback is added. The script's own `sitecustomize`, if there is one, is loaded as usual.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import json
import os
import socket
import sys
import time

_EVERY_SECONDS = 1.0  # between questions whether to go on, in one process
_EVERY_STEPS = 10  # with several: all must ask at the same steps, to be told the same
_line = None  # the open line to the search, shared by all Trainers of this process


class _Line:
    """A line of JSON out, a line of JSON back."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._file = self._socket.makefile("rw", encoding="utf-8")

    def ask(self, message):
        """The search's answer; one without action when it has gone: then this process will be ended."""
        try:
            self._file.write(json.dumps(message) + "\n")
            self._file.flush()
            return json.loads(self._file.readline() or "{}")
        except (OSError, ValueError):
            return {}


def _open_line():
    global _line  # noqa: PLW0603  one for the process
    if _line is None:
        _line = _Line(os.environ["TUNESMITH_SOCKET"])
    return _line


def _numbers(metrics):
    return {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, (int, float))}


def _callback_class():
    from transformers import TrainerCallback  # noqa: PLC0415

    class TunesmithCallback(TrainerCallback):
        """Reports evaluations and checkpoints; ends training when the search says so."""

        def __init__(self):
            self._asked = time.monotonic()
            self._told = 0  # all ranks tell the same events in the same order

        def on_train_begin(self, args, state, control, **_):
            self._tell("begin", args, state, control, output_dir=os.path.abspath(args.output_dir))

        def on_evaluate(self, args, state, control, metrics=None, **_):
            self._tell("evaluation", args, state, control, metrics=_numbers(metrics))

        def on_step_end(self, args, state, control, **_):
            if args.world_size > 1:
                due = state.global_step % _EVERY_STEPS == 0
            else:
                due = time.monotonic() - self._asked >= _EVERY_SECONDS
            if due:
                self._asked = time.monotonic()
                self._tell("step", args, state, control)

        def on_save(self, args, state, control, **_):
            path = os.path.abspath(os.path.join(args.output_dir, f"checkpoint-{state.global_step}"))
            self._tell("saved", args, state, control, path=path)

        def _tell(self, event, args, state, control, **more):
            self._told += 1
            message = _message(args, state, number=self._told, event=event, **more)
            _obey(_open_line().ask(message).get("action", "continue"), message, control)

    return _with_logs(TunesmithCallback) if "TUNESMITH_LOGS" in os.environ else TunesmithCallback


def _with_logs(kind):
    """For a backend that keeps what a Trainer logs between its evaluations."""
    from transformers.integrations import rewrite_logs  # noqa: PLC0415

    class LoggingCallback(kind):
        def on_log(self, args, state, control, logs=None, **_):
            metrics = {**rewrite_logs(_numbers(logs)), "train/global_step": state.global_step}
            self._tell("log", args, state, control, metrics=metrics)

    return LoggingCallback


def _obey(action, message, control):
    asked = message["event"] in ("evaluation", "step") and 0 < message["step"] < message["max_steps"]
    if asked and action != "continue":
        control.should_training_stop = True
        control.should_save = control.should_save or (message["saves"] and action == "pause")


def _message(args, state, **more):
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {
        "rank": args.process_index, "ranks": args.world_size, "step": state.global_step, "max_steps": state.max_steps,
        "epoch": state.epoch, "examples": state.global_step * batch,
        "saves": str(getattr(args.save_strategy, "value", args.save_strategy)) != "no", **more,
    }  # fmt: skip


def _extend(trainer):
    """Add the callback to every Trainer that is made, and let the first training go on from the trial's checkpoint."""
    init, train = trainer.__init__, trainer.train

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):  # noqa: N807
        init(self, *args, **kwargs)
        self.add_callback(_callback_class())

    @functools.wraps(train)
    def train_on(self, resume_from_checkpoint=None, *args, **kwargs):
        checkpoint = os.environ.pop("TUNESMITH_RESUME_FROM", None)
        return train(self, checkpoint or resume_from_checkpoint, *args, **kwargs)

    trainer.__init__, trainer.train = __init__, train_on


class _Finder:
    """Sees transformers.trainer being imported, and extends it."""

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002
        if name != "transformers.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _extend(module.Trainer)

            spec.loader.exec_module = exec_module
        return spec


def _load_the_next():
    """The sitecustomize that Python would have loaded."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)


if "TUNESMITH_SOCKET" in os.environ:
    sys.meta_path.insert(0, _Finder())
_load_the_next()
