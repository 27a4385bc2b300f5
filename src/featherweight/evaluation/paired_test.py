"""Two networks compared on the same samples: difference, its standard error, and a test of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binomtest, t

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

    References: McNemar, Note on the sampling error of the difference between correlated proportions, 1947.
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
        error=math.sqrt(sum(one.error**2 for one in found)) / len(found), p=_sign_test(lost, gained),
        lost=lost, gained=gained, samples=sum(one.samples for one in found),
    )  # fmt: skip


def drop_bound(before: NDArray[Any], after: NDArray[Any], confidence: float = 0.95) -> float:
    """Return the most that the mean of a metric has dropped (fraction), one-sided, with this confidence.

    Of outcomes 0 and 1: the upper limit of the share that was lost minus the lower limit of the share that was
    gained, each exact (Clopper, Pearson, 1934). By enumeration of all outcomes of 20, 60 and 150 samples it is
    below the true drop in at most 5 % of draws, whatever the true shares are. It is not 0 where nothing changed:
    100 samples without a change leave room for a drop of 2.95 points. Of other metrics: Student's t.

    >>> import numpy as np
    >>> round(drop_bound(np.ones(100), np.ones(100)), 4)
    0.0295

    Args:
        before: metric of each sample `[n]`.
        after: the same samples `[n]`.
        confidence: probability that the true drop is no greater.
    """
    count = before.size
    if np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all():
        lost, gained = int((after < before).sum()), int((after > before).sum())
        upper = 1.0 if lost == count else float(beta.ppf(confidence, lost + 1, count - lost))
        lower = 0.0 if not gained else float(beta.ppf(1 - confidence, gained, count - gained + 1))
        return upper - lower
    found = paired(before, after)
    return -found.difference + (float(t.ppf(confidence, count - 1)) * found.error if found.error else 0.0)


def seen_before(validation: NDArray[Any], test: NDArray[Any]) -> bool:
    """Return whether a network is so much better on validation than on test that chance does not explain it.

    One-sided: the difference of the means beyond 3.09 of its standard errors (p = 0.001), which come from the
    variance of all samples together, as if they were of one kind.

    >>> import numpy as np
    >>> bool(seen_before(np.ones(400), np.arange(400) % 10 > 0)), bool(seen_before(np.ones(9), np.ones(9)))
    (True, False)

    Args:
        validation: metric of each sample `[n]`.
        test: metric of each of other samples `[m]`.
    """
    pooled_variance = float(np.concatenate([validation, test]).astype(np.float64).var())
    variance = pooled_variance * (1 / validation.size + 1 / test.size)
    difference = float(validation.mean()) - float(test.mean())
    return difference > 3.09 * math.sqrt(variance) + 1e-12


def _sign_test(lost: int, gained: int) -> float:
    return float(binomtest(gained, lost + gained, 0.5).pvalue) if lost + gained else 1.0
