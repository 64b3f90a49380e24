"""Pickling for workers names what cannot be pickled."""

import re
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from tunesmith.errors import SettingError
from tunesmith.runners.pickling import dumps_task, loads


@dataclass
class Holder:
    callbacks: list[Any] = field(default_factory=list)
    writer: Any = None

    def run(self, trial: Any) -> float:
        return 0.0


class Slotted:
    __slots__ = ("lock",)

    def __init__(self, lock):
        self.lock = lock


class Refuses:
    def __reduce__(self):
        raise RuntimeError("not this one")


def closure(captured):
    def objective(trial):
        return captured, trial

    return objective


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (Holder([None, Holder(writer=threading.Lock())]), "callbacks[1].writer (_thread.lock)"),
        (Holder([Refuses()]), "callbacks[0] (test_pickling.Refuses) is not: not this one"),
        (Holder(writer={"a": {"b": threading.Lock()}}).run, "writer['a']['b'] (_thread.lock)"),
        (closure({"writer": threading.Lock()}), "captured['writer'] (_thread.lock)"),
        (partial(max, 1, sink=Slotted(threading.Lock())), "sink.lock (_thread.lock)"),
        (Refuses(), "the task itself (test_pickling.Refuses)"),
    ],
)
def test_what_cannot_be_pickled_is_named_with_its_path(task, path):
    with pytest.raises(SettingError, match=re.escape(path)):
        dumps_task(task)


def test_an_object_that_holds_itself_does_not_keep_the_search_for_a_culprit_from_ending():
    holder = Holder(writer=threading.Lock())
    holder.callbacks.append(holder)
    with pytest.raises(SettingError, match=r"writer \(_thread\.lock\)"):
        dumps_task(holder)


def test_a_bare_object_travels_without_its_state_wherever_it_is_held():
    heavy = Holder(writer=threading.Lock())
    copied = loads(dumps_task(Holder([heavy], writer=heavy), bare=[heavy]))
    assert copied.writer is copied.callbacks[0]
    assert type(copied.writer) is Holder
    assert vars(copied.writer) == {}


def test_what_else_cannot_be_pickled_is_named_where_something_is_bare():
    heavy = Holder(writer=threading.Lock())
    with pytest.raises(SettingError, match=r"and callbacks\[1\] \(_thread\.lock\)"):
        dumps_task(Holder([heavy, threading.Lock()]), bare=[heavy])


def test_closures_survive():
    assert loads(dumps_task(closure(3)))(4) == (3, 4)
