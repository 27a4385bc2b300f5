"""The distributions that coders are measured on."""

import numpy as np


def distributions(count: int, seed: int = 0) -> dict[str, tuple[np.ndarray, int]]:
    """Name to symbols and alphabet."""
    draw = np.random.default_rng(seed)
    levels = draw.integers(1, 17, count)
    return {
        "uniform, 4 bits": (draw.integers(0, 16, count), 16),
        "gaussian, 4 bits": (np.clip(np.rint(draw.normal(8, 2.2, count)), 0, 15).astype(np.int64), 16),
        "laplacian, 8 bits": (np.clip(np.rint(draw.laplace(128, 12, count)), 0, 255).astype(np.int64), 256),
        "geometric": (np.minimum(draw.geometric(0.3, count) - 1, 31), 32),
        "90 % zeros, 16 levels": (np.where(draw.random(count) < 0.9, 0, levels), 17),
        "99 % zeros, 16 levels": (np.where(draw.random(count) < 0.99, 0, levels), 17),
        "binary, p = 0.1": ((draw.random(count) < 0.1).astype(np.int64), 2),
    }


def entropy_bytes(symbols: np.ndarray) -> float:
    """Bytes of the stream at its own empirical entropy."""
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(counts @ -np.log2(counts / counts.sum())) / 8
