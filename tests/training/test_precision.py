"""Training in bfloat16: products are rounded, weights are not; it learns what float32 does."""

import torch
from tiny import Tiny

from featherweight.recipe import Recipe, Store, run
from featherweight.techniques import Train


def trained(precision, tmp_path, epochs=3):
    step = Train(epochs=epochs, precision=precision)
    return run(Recipe([step]), Tiny(), threads=1, store=Store(tmp_path / precision))[-1].model


def test_weights_stay_float32_and_differ(tmp_path):
    exact, rounded = trained("float32", tmp_path), trained("bfloat16", tmp_path)
    assert all(rounded.tensors[name].dtype == tensor.dtype for name, tensor in exact.tensors.items())
    weights = [name for name, tensor in exact.tensors.items() if tensor.dim() > 1]
    assert any(not torch.equal(exact.tensors[name], rounded.tensors[name]) for name in weights)
    # none of them has been rounded to 8 bits of mantissa
    assert any((rounded.tensors[name] != rounded.tensors[name].bfloat16().float()).any() for name in weights)


def test_it_learns(tmp_path):
    task = Tiny()
    images, labels = task.data("validation", 256)
    with torch.no_grad():
        scores = trained("bfloat16", tmp_path, epochs=6).module.eval()(images)
    assert (scores.argmax(1) == labels).float().mean() > 0.9
