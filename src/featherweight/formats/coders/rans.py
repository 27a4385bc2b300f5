"""Range asymmetric numeral systems: within a thousandth of a bit of the entropy at any alphabet."""

from __future__ import annotations

import math
from typing import Any

import constriction
import numpy as np
from numpy.typing import ArrayLike

from featherweight.errors import IntegrityError
from featherweight.formats.coders.base import Array
from featherweight.formats.coders.bits import Bits, pack
from featherweight.formats.coders.frequencies import Frequencies, Static

PRECISION = 24

# The state that encoding starts from and decoding ends at. It is no smaller than any weight, so that every
# symbol makes it grow; from 0, a run of the first symbol would cost nothing.
SEED = 1 << PRECISION


class Rans(Static, frozen=True, tag="rans"):
    """Static rANS with a 64-bit state and 32-bit words, by the `constriction` library.

    References: J. Duda, "Asymmetric numeral systems", 2013, arXiv 1311.2540; R. Bamler, "Understanding
    entropy coding with asymmetric numeral systems", 2022, arXiv 2201.01741.
    """

    def _encode_ranks(self, ranks: Array, table: Frequencies) -> bytes:
        coder = _ans([SEED])
        coder.encode_reverse(ranks.astype(np.int32), _model(table.counts))
        words: bytes = coder.get_compressed().astype("<u4").tobytes()
        return pack(*table.fields()) + words.rstrip(b"\0")

    def _decode_ranks(self, bits: Bits, position: int, table: Frequencies, count: int) -> Array:
        body, least = bits.payload[(position + 7) // 8 :], least_bits(table.counts, count)
        if body.endswith(b"\0"):
            raise IntegrityError("rANS payload: bytes behind its end")
        if least > 8 * len(body):
            raise IntegrityError(
                f"rANS payload too short for {count} symbols",
                got=f"{8 * len(body)} bits", expected=f"at least {least:.0f}",
            )  # fmt: skip
        coder = _ans(np.frombuffer(body + bytes(-len(body) % 4), "<u4"))
        ranks: Array = coder.decode(_model(table.counts), count)
        if coder.get_compressed().tolist() != [SEED]:
            raise IntegrityError("rANS payload: its state does not end where encoding starts")
        return ranks


def least_bits(counts: Array, count: int) -> float:
    """Return fewer bits than any `count` symbols of a table of `counts: [distinct]` can be coded in.

    A symbol of weight w costs log2(2**24 / w) bits. With q = state / w, rounded down, integers make it
    cheaper by a factor q / (q + 1) at most: q is at least 256 once a word is out, and what is cheaper before
    comes to under 6 bits, for which the 24 of the seed are more than enough.
    """
    likeliest = int(weights(counts).max())
    return count * (PRECISION - math.log2(likeliest)) * 128 / 129


def weights(counts: Array) -> Array:
    """Return integers of at least 1, sum 2**24, in proportion to `counts: [distinct]`.

    With C the running sums of the counts and T their total, the running sums of the weights are
    floor(C * 2**24 / T).
    """
    sums: Array = np.cumsum(counts, dtype=np.int64)
    shares: Array = np.diff((sums << PRECISION) // int(sums[-1]), prepend=0)
    return shares


def _model(counts: Array) -> Any:
    """Return the library's model with exactly these weights.

    For float probabilities p of n symbols it takes the running weights floor(P * (2**24 - n) / sum(p)) + i,
    with P the sum of the i probabilities before; from p = weight - 1, all in integers, come the weights
    themselves.
    """
    return constriction.stream.model.Categorical((weights(counts) - 1).astype(np.float64), perfect=False)


def _ans(words: ArrayLike) -> Any:
    return constriction.stream.stack.AnsCoder(np.asarray(words, np.uint32))
