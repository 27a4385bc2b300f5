"""Convolutions as x86 without VNNI computes them: products of u8 by s8, added in pairs that saturate at int16."""

import numpy as np


def saturated(patches, weight, inner, groups=1):
    """Return int32 `[n, out]` of `patches: uint8 [n, in, places]` and `weight: int8 [out, in / groups, places]`.

    `inner`: pairs are neighbours along the channels of a place ("channels", the last of an odd number alone), along
    all of channels and places, channels innermost ("all"), or along places ("places").
    """
    out, channels, _ = weight.shape
    found = np.zeros((len(patches), out), np.int32)
    for row in range(out):
        first = row // (out // groups) * channels
        products = patches[:, first : first + channels].astype(np.int32) * weight[row].astype(np.int32)
        products = products if inner == "places" else products.transpose(0, 2, 1)  # [n, places, channels]
        products = products.reshape(len(products), 1, -1) if inner == "all" else products
        products = np.pad(products, [(0, 0), (0, 0), (0, products.shape[2] % 2)])
        pairs = products[:, :, 0::2] + products[:, :, 1::2]
        found[:, row] = np.clip(pairs, -(1 << 15), (1 << 15) - 1).sum(axis=(1, 2))
    return found


def exact(patches, weight, groups=1):
    """Return the same with sums in int32."""
    out, channels, _ = weight.shape
    found = np.zeros((len(patches), out), np.int32)
    for row in range(out):
        first = row // (out // groups) * channels
        part = patches[:, first : first + channels].astype(np.int32)
        found[:, row] = (part * weight[row].astype(np.int32)).sum(axis=(1, 2))
    return found


def hardest(weight, groups=1):
    """Return patches `[2 * out, in, places]`: 255 where a row is positive, else 0, and the other way round."""
    out, channels, places = weight.shape
    patches = np.zeros((2 * out, channels * groups, places), np.uint8)
    for row in range(out):
        first = row // (out // groups) * channels
        patches[2 * row, first : first + channels] = np.where(weight[row] > 0, 255, 0)
        patches[2 * row + 1, first : first + channels] = np.where(weight[row] < 0, 255, 0)
    return patches
