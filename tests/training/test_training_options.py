"""The learning rate as a function of time, and options that cannot be meant."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featherweight.errors import ConfigError
from featherweight.task.training import Training, learning_rate

SCHEDULES = st.one_of(
    st.sampled_from(["constant", "cosine"]),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=3, unique=True).map(sorted),
)


@settings(deadline=None)
@given(SCHEDULES, st.floats(0, 1), st.integers(1, 50), st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted))
def test_rises_then_falls(schedule, warmup, epochs, times):
    options = Training(epochs=epochs, lr=0.3, schedule=schedule, warmup=warmup)
    without = Training(epochs=epochs, lr=0.3, schedule=schedule)
    early, late = (learning_rate(options, t * epochs) for t in times)
    assert 0 <= early <= 0.3 and 0 <= late <= 0.3
    if times[0] >= warmup:
        assert late <= early
    for t, rate in zip(times, (early, late), strict=True):
        if t >= warmup:
            assert rate == learning_rate(without, t * epochs)


def test_drops_by_ten():
    options = Training(epochs=100, lr=1.0, schedule=[0.5, 0.75])
    assert [round(learning_rate(options, e), 6) for e in (49.9, 50, 74.9, 75)] == [1.0, 0.1, 0.1, 0.01]


def test_refuses_what_cannot_be_meant():
    with pytest.raises(ConfigError, match="momentum"):
        Training(optimizer="nesterov", momentum=0)
    with pytest.raises(ConfigError, match="ascending"):
        Training(schedule=[0.75, 0.5])
    for wrong in ({"epochs": 0}, {"lr": 0}, {"schedule": []}, {"schedule": "cos"}, {"warmup": 2}, {"rate": 1}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Training)
