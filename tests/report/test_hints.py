"""What the trials suggest in words."""

from optuna.distributions import FloatDistribution
from report_fakes import trial

from tunesmith.report.hints import in_common, narrow_ranges
from tunesmith.trial import TrialState

LR = FloatDistribution(1e-5, 1e-1, log=True)


def at(number, lr, value):
    return trial(number, params={"lr": lr}, distributions={"lr": LR}, values=(value,))


def test_a_range_is_too_narrow_when_the_best_lie_at_its_end():
    trials = [at(k, 0.1 - 0.001 * k if k < 4 else 1e-4, float(k)) for k in range(20)]
    assert narrow_ranges(trials, ["minimize"], {"lr": 0.8}) == [
        "The best 4 trials lie at the upper end of lr: a range that goes above 0.1 may hold better ones."
    ]
    assert narrow_ranges(trials, ["maximize"], {"lr": 0.8}) == []
    assert narrow_ranges(trials, ["minimize"], {"lr": 0.01}) == [], "a parameter that does not matter may lie anywhere"


def test_a_range_whose_best_lie_inside_is_wide_enough():
    assert narrow_ranges([at(k, 1e-3, float(k)) for k in range(20)], ["minimize"], {"lr": 0.8}) == []
    assert narrow_ranges([], ["minimize"], {}) == []


def fails(number, **params):
    return trial(number, TrialState.FAILED, params=params, distributions={})


def works(number, **params):
    return trial(number, params=params, distributions={})


def test_failed_trials_have_a_value_in_common():
    others = [works(k, batch=8 * (k % 4), kind="a", lr=0.1 * k) for k in range(20)]
    failed = [fails(k, batch=64, kind="a", lr=0.1 * k) for k in (30, 31)]
    assert in_common(failed, [*others, *failed]) == "all have batch = 64, as none of the 20 that did not fail"


def test_failed_trials_lie_beyond_a_value():
    others = [works(k, lr=0.1 * k) for k in range(20)]
    failed = [fails(30, lr=1.9), fails(31, lr=2.5), fails(32, lr=3.0)]
    assert in_common(failed, [*others, *failed]) == "all have lr of at least 1.9, as 1 of the 20 that did not fail"


def test_nothing_is_said_where_nothing_sets_them_apart():
    others = [works(k, lr=0.1 * k, kind=None) for k in range(20)]
    assert in_common([fails(30, lr=0.1, kind=None), fails(31, lr=1.5, kind=None)], others) == ""
    assert in_common([fails(30, lr=99.0, kind=None)], others) == ""
    assert in_common([fails(30), fails(31)], others) == ""
