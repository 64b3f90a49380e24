import subprocess
import sys

import numpy as np
import pytest
import torch

from tunesmith.scalars import floats, python_scalar


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("adam"), "adam"),
        (np.array(0.5), 0.5),
        (np.array([3]), 3),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([3]), 3),
    ],
)
def test_a_scalar_becomes_the_value_that_python_has_for_it(given, expected):
    found = python_scalar(given)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "given",
    [None, True, 3, "adam", (1, 2), {"item": 1}, np.float64, np.array([1, 2]), np.array([]), torch.tensor([1.0, 2.0])],
)
def test_what_is_no_scalar_stays_as_it_is(given):
    assert python_scalar(given) is given


def test_numpy_is_not_loaded_to_tell():
    code = "import sys; from tunesmith.scalars import python_scalar; python_scalar(1.0); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_metrics_are_numbers_of_any_kind():
    given = {"a": np.float32(0.5), "b": torch.tensor(2), "c": True, "d": 3, "text": "x", "list": [1.0], "none": None}
    assert floats(given) == {"a": 0.5, "b": 2.0, "c": 1.0, "d": 3.0}
