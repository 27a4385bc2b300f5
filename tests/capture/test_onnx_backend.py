"""ONNX's own tests of operators: a file of each is read and computes what ONNX says, or is refused by name."""

import warnings

import numpy as np
import torch

from featherweight.capture.onnx import read_network
from featherweight.errors import FeatherweightError

# What these tests ask for is left open by ONNX, or ONNX Runtime computes otherwise.
OPEN = {
    "test_top_k_same_values", "test_top_k_same_values_largest", "test_top_k_same_values_2d",  # order of equals
    "test_training_dropout", "test_training_dropout_default",  # drawn by numpy
    "test_training_dropout_default_mask", "test_training_dropout_mask",
    "test_resize_downsample_scales_linear_align_corners",  # of a size that is no whole number
    "test_resize_downsample_scales_cubic_align_corners",
    "test_maxpool_with_argmax_2d_precomputed_strides",
}  # fmt: skip
OLD = (np.float32, np.float16, np.float64, np.int64, np.int32, np.int8, np.uint8, np.bool_)
LEAST = 1200  # that are equal, of about 1,900; others are of sequences, strings, odd types, old or random operators


def cases():
    with warnings.catch_warnings(action="ignore"):
        from onnx.backend.test.loader import load_model_tests

        return load_model_tests(kind="node")


def outcome(case, path):
    """`equal`, `refused`, `another kind` of value than tensors of the usual types, or what is wrong."""
    model, (inputs, expected) = case.model, next(iter(case.data_sets))
    arrays = [*inputs, *expected]
    if not all(isinstance(a, np.ndarray | np.generic) and a.dtype in OLD for a in arrays):
        return "another kind"
    path.write_bytes(model.SerializeToString())
    try:
        network = read_network(path)
        with torch.no_grad():
            found = network(*[torch.from_numpy(np.array(array)) for array in inputs])
    except FeatherweightError:
        return "refused"
    found = list(found.values()) if isinstance(found, dict) else [found]
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours.numpy(), np.asarray(theirs)
        if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
            return f"{ours.dtype}{ours.shape} for {theirs.dtype}{theirs.shape}"
        if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-5, equal_nan=True):
            return "other numbers"
    return "equal"


def test_operators_compute_what_onnx_says(tmp_path):
    chosen = [case for case in cases() if case.name not in OPEN]
    found = {case.name: outcome(case, tmp_path / "m.onnx") for case in chosen}
    wrong = {name: said for name, said in found.items() if said not in ("equal", "refused", "another kind")}
    assert not wrong
    assert sum(said == "equal" for said in found.values()) >= LEAST
