"""The division of a machine into slots."""

import pytest

from tunesmith.errors import SettingError
from tunesmith.runners.slots import Slot, plan_slots, visible_gpus


def devices(workers, **settings):
    return [slot.devices for slot in plan_slots(workers, **{"cores": 8, "gpus": (), **settings})]


def test_auto_without_a_gpu_fills_the_cores():
    assert plan_slots("auto", threads_per_trial=3, gpus=(), cores=8) == (Slot((), 3), Slot((), 3))


def test_auto_makes_one_slot_at_least():
    assert len(plan_slots("auto", threads_per_trial=16, gpus=(), cores=2)) == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"workers": "auto"}, [("0",), ("1",)]),
        ({"workers": 3}, [("0",), ("1",), ("0",)]),
        ({"workers": "auto", "gpus_per_trial": 0.5}, [("0",), ("1",), ("0",), ("1",)]),
        ({"workers": 2, "gpus_per_trial": 0.5}, [("0",), ("1",)]),
        ({"workers": "auto", "gpus_per_trial": 2}, [("0", "1")]),
        ({"workers": 2, "gpus_per_trial": 0}, [(), ()]),
    ],
)
def test_gpus_are_dealt_to_slots(settings, expected):
    assert devices(**settings, gpus=("0", "1")) == expected


def test_a_tenth_of_a_gpu_makes_ten_slots():
    assert len(plan_slots("auto", gpus_per_trial=0.1, gpus=("0",))) == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers must be a whole number from 1"),
        ({"workers": True}, "workers must be"),
        ({"workers": 1.5}, "workers must be"),
        ({"workers": "many"}, "workers must be"),
        ({"workers": 1, "threads_per_trial": 0}, "threads_per_trial must be"),
        ({"workers": 1, "gpus_per_trial": 1.5}, "gpus_per_trial must be a share"),
        ({"workers": 1, "gpus_per_trial": -1}, "gpus_per_trial must be a share"),
        ({"workers": 1, "gpus_per_trial": float("nan")}, "gpus_per_trial must be a share"),
        ({"workers": 1, "gpus_per_trial": 1}, "no GPU is visible"),
        ({"workers": 3, "gpus_per_trial": 1, "gpus": ("0", "1")}, "must fit the 2 visible"),
        ({"workers": "auto", "gpus_per_trial": 4, "gpus": ("0", "1")}, "must fit the 2 visible"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        devices(**settings)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", []), ("-1", []), ("0,2", ["0", "2"]), ("0,-1,2", ["0"]), ("GPU-ab, GPU-cd", ["GPU-ab", "GPU-cd"])],
)
def test_visible_gpus_are_those_that_cuda_would_see(monkeypatch, value, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected
