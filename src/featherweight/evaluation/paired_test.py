"""Two networks compared on the same samples: difference, its standard error, and a test of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from featherweight.errors import ConfigError


class Paired(msgspec.Struct, frozen=True):
    """What became of a metric on the same samples.

    Attributes:
        difference: mean after minus mean before (fraction): negative is a loss.
        error: standard error of the difference.
        p: probability of samples that changed being split so unevenly, or more so, by chance (two-sided).
        lost: samples that became worse.
        gained: samples that became better.
        samples: how many there are.
    """

    difference: float
    error: float
    p: float
    lost: int
    gained: int
    samples: int


def paired(before: NDArray[Any], after: NDArray[Any]) -> Paired:
    """Return how the metric of each sample changed.

    The standard error is that of a mean of differences, sqrt(var(after - before) / n); of outcomes 0 and 1 it is
    sqrt(lost + gained - (gained - lost)^2 / n) / n. The test is the sign test on the samples that changed, which of
    outcomes 0 and 1 is McNemar's in its exact form.

    >>> import numpy as np
    >>> paired(np.array([1, 1, 1, 1, 0, 0, 1, 1.0]), np.array([0, 0, 0, 1, 1, 0, 1, 1.0]))
    Paired(difference=-0.25, error=0.23385358667337133, p=0.625, lost=3, gained=1, samples=8)

    Args:
        before: metric of each sample `[n]`.
        after: the same samples `[n]`.

    Raises:
        ConfigError: not the same samples, or none.

    References:
        McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
    """
    if before.shape != after.shape or before.ndim != 1 or not before.size:
        raise ConfigError("not the same samples", got=[*before.shape, *after.shape], expected="[n], twice")
    change = after.astype(np.float64) - before
    lost, gained = int((change < 0).sum()), int((change > 0).sum())
    error = math.sqrt(float(change.var()) / change.size)
    return Paired(float(change.mean()), error, _sign_test(lost, gained), lost, gained, int(change.size))


def pooled(found: Sequence[Paired]) -> Paired:
    """Return several comparisons, for instance of several seeds, as one.

    The difference is the mean, and the samples that changed are counted over all. Seeds that share their test
    samples are not quite independent: the standard error, and `p`, are then a little too small.

    Raises:
        ConfigError: there are none.
    """
    if not found:
        raise ConfigError("no comparisons", got=0, expected="one or more")
    lost, gained = sum(one.lost for one in found), sum(one.gained for one in found)
    return Paired(
        difference=float(np.mean([one.difference for one in found])),
        error=math.sqrt(sum(one.error**2 for one in found)) / len(found),
        p=_sign_test(lost, gained),
        lost=lost,
        gained=gained,
        samples=sum(one.samples for one in found),
    )


def _sign_test(lost: int, gained: int) -> float:
    return float(binomtest(gained, lost + gained, 0.5).pvalue) if lost + gained else 1.0
