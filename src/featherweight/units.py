"""Numbers and lists for people: bytes, percentages, the first of many names."""

from __future__ import annotations

from collections.abc import Sequence


def nbytes(n: int) -> str:
    """Return a number of bytes in decimal units.

    >>> nbytes(999), nbytes(10_800), nbytes(6_653_480)
    ('999 B', '10.8 kB', '6.65 MB')
    """
    value = float(n)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{n:,} B" if unit == "B" else f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"


def points(fraction: float) -> str:
    """Return a difference of fractions in points, hundredths, with its sign.

    >>> points(-0.0021), points(-1e-9)
    ('-0.21', '+0.00')
    """
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"


def percent(fraction: float) -> str:
    """Return a fraction as a percentage with two decimals.

    >>> percent(0.9912)
    '99.12 %'
    """
    return f"{100 * fraction:.2f} %"


def some(names: Sequence[str], most: int) -> str:
    """Return the first `most` of some names, and how many more there are.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
