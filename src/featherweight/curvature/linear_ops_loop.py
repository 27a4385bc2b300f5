"""The loop of a depthwise layer's second moment, compiled: a few channels' patches at a time are written out."""

from __future__ import annotations

import numpy as np

from featherweight.formats.kernels import compiled
from featherweight.formats.view import Array

AT_ONCE = 16  # channels: those that one line of a cache holds


@compiled
def under_taps(x: Array, index: Array, first: int, last: int, found: Array) -> None:
    """Write out in `found: [AT_ONCE, taps, count]` what lies under the taps, of channels `first .. last`."""
    for p in range(index.shape[0]):
        for t in range(index.shape[1]):
            place = index[p, t]
            if place < 0:
                found[:, t, p] = 0
            else:
                for c in range(last - first):
                    found[c, t, p] = x[place, first + c]


@compiled
def multiply_taps(x: Array, z: Array, index: Array, total: Array) -> None:
    """Return in `total`, for each channel and every two taps, the sum of products of what lies under them.

    Args:
        x: float32 `[n, channels]`.
        z: likewise; or `[0, channels]`: the same.
        index: of the places under the taps, `[count, taps]`; -1: zeros.
        total: float32 `[channels, taps, taps]`: of x under the first tap and z under the second.
    """
    count, taps = index.shape
    channels = x.shape[1]
    of_x = np.empty((AT_ONCE, taps, count), np.float32)
    of_z = np.empty((AT_ONCE, taps, count), np.float32) if len(z) else of_x
    for first in range(0, channels, AT_ONCE):
        last = min(first + AT_ONCE, channels)
        under_taps(x, index, first, last, of_x)
        if len(z):
            under_taps(z, index, first, last, of_z)
        for c in range(last - first):
            total[first + c] = np.dot(of_x[c], of_z[c].T)
