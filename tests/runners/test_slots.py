"""The division of a machine into slots."""

import sys
from types import SimpleNamespace

import pytest

from tunesmith.errors import SettingError
from tunesmith.runners.slots import Slot, plan_slots, ranks_of, visible_gpus


def devices(workers, **settings):
    return [slot.devices for slot in plan_slots(workers, **{"cores": 8, "gpus": (), **settings})]


def test_auto_without_a_gpu_fills_the_cores():
    assert plan_slots("auto", threads_per_trial=3, gpus=(), cores=8) == (Slot(threads=3), Slot(threads=3))


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
        ({"workers": "auto", "ranks_per_trial": 2}, [("0", "1")]),
        ({"workers": 2, "gpus": ()}, [None, None]),
        ({"workers": 2, "gpus": (), "gpus_per_trial": 0}, [(), ()]),
    ],
)
def test_gpus_are_dealt_to_slots(settings, expected):
    assert devices(**{"gpus": ("0", "1"), **settings}) == expected


def test_a_gpu_that_is_not_known_of_is_hidden_only_where_none_is_wanted():
    assert "CUDA_VISIBLE_DEVICES" not in Slot(None).environment
    assert Slot(()).environment["CUDA_VISIBLE_DEVICES"] == ""


def test_several_ranks_share_the_devices_of_a_slot_or_its_cores():
    assert plan_slots(2, gpus_per_trial=2, ranks_per_trial=2, gpus=("0", "1", "2", "3", "4"), cores=8) == (
        Slot(("0", "1"), 1, 2),
        Slot(("2", "3"), 1, 2),
    )
    assert plan_slots("auto", ranks_per_trial=2, threads_per_trial=2, gpus=(), cores=8) == (Slot(None, 2, 2),) * 2


def test_a_trial_of_several_gpus_has_a_rank_for_each_unless_it_is_said_otherwise():
    cases = [(None, None), (0.5, None), (1, None), (2, None), (2, 1), (0, 2), (None, 3)]
    assert [ranks_of(*case) for case in cases] == [1, 1, 1, 2, 1, 2, 3]


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
        ({"workers": 1, "ranks_per_trial": 101}, "ranks_per_trial must be a whole number from 1 to 100, got 101"),
        (
            {"workers": 1, "ranks_per_trial": 2, "gpus_per_trial": 1, "gpus": ("0", "1")},
            "gpus_per_trial must be ranks_per_trial, for a GPU each, or 0, .* got 1 for 2 ranks",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        devices(**settings)


def test_gpus_that_only_torch_knows_of_are_found_once_it_is_loaded(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible_gpus():
        pytest.skip("this machine has GPUs that are found without torch")
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", []), ("-1", []), ("0,2", ["0", "2"]), ("0,-1,2", ["0"]), ("GPU-ab, GPU-cd", ["GPU-ab", "GPU-cd"])],
)
def test_visible_gpus_are_those_that_cuda_would_see(monkeypatch, value, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == expected
