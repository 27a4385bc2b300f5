"""Coupled channels: a pruned network computes what the one with silent channels does; reasons; costs."""

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS
from structured_networks import Joined, Plain, Residual, Sloped, SmallViT, coupled, random

from featherweight.capture.program import trace
from featherweight.graph.channel_labels import Labels, reshaped
from featherweight.graph.channels import couple
from featherweight.model import Model
from featherweight.techniques.surgery import computed, pruned, silenced
from featherweight.zoo.densenet import DenseNet40
from featherweight.zoo.efficientnet_lite import EfficientNetLite0
from featherweight.zoo.lenet import LeNet5
from featherweight.zoo.mobilenet_v2 import mobilenet_v2_32
from featherweight.zoo.resnet import resnet20
from featherweight.zoo.squeezenet import SqueezeNet32
from featherweight.zoo.vgg import VGG16

slow = pytest.mark.slow
ZOO = [
    pytest.param(LeNet5, (1, 28, 28), 570, id="lenet5"),
    pytest.param(VGG16, (3, 32, 32), 4224, id="vgg16"),
    pytest.param(resnet20, (3, 32, 32), 352, id="resnet20"),
    pytest.param(SqueezeNet32, (3, 32, 32), 2944, id="squeezenet32"),
    pytest.param(mobilenet_v2_32, (3, 32, 32), 9128, id="mobilenetv2", marks=slow),
    pytest.param(DenseNet40, (3, 8, 8), 912, id="densenet40", marks=slow),
    pytest.param(EfficientNetLite0, (3, 32, 32), 11024, id="efficientnet-lite0", marks=slow),
]


@cache
def coupled_zoo(make, shape):
    module = random(make)
    return module, couple(trace(module, torch.randn(2, *shape)))


def some(channels, rng, share=0.6):
    """Random channels that stay, at least one of every group."""
    kept = rng.random(channels.count) < share
    kept[np.cumsum([0, *(group.size for group in channels.groups)])[:-1]] = True
    return kept


def assert_law(model, channels, kept, example):
    (small,), (silent,) = (computed(made(model, channels, kept), example) for made in (pruned, silenced))
    assert float((small - silent).abs().max()) <= 1e-5 * float(silent.abs().max())


@pytest.mark.parametrize(("make", "shape", "count"), ZOO)
def test_pruned_equals_silenced(make, shape, count):
    (module, channels), example = coupled_zoo(make, shape), torch.randn(2, *shape)
    model = Model.of(module)
    assert channels.count == count
    kept = some(channels, np.random.default_rng(0))
    small = pruned(model, channels, kept)
    assert channels.parameters(kept) == sum(p.numel() for p in small.module.parameters())
    assert_law(model, channels, kept, example)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([Plain, Residual, Joined, Sloped, SmallViT]), st.integers(0, 2**32 - 1), st.floats(0, 1)
)
def test_pruned_equals_silenced_whatever_goes(make, seed, share):
    kept = some(coupled(make), np.random.default_rng(seed), share)
    assert_law(Model.of(random(make)), coupled(make), kept, torch.randn(2, 1, 4, 4))


def test_costs_are_those_of_the_pruned_network(make=Joined):
    channels, model, example = coupled(make), Model.of(random(make)), torch.randn(2, 1, 4, 4)
    kept = some(channels, np.random.default_rng(1), 0.5)
    small = pruned(model, channels, kept)
    assert channels.macs(kept) == trace(small.module, example).macs
    assert channels.parameters(kept) == sum(p.numel() for p in small.module.parameters())
    start = 0
    for group in channels.groups:
        one = np.arange(channels.count) != start
        start += group.size
        assert group.macs == channels.macs(np.ones(channels.count, bool)) - channels.macs(one)


def test_channels_tied_by_a_shortcut_are_one_group():
    stem = next(group for group in coupled(Residual).groups if group.name == "stem")
    assert {m.tensor for m in stem.makers} >= {"stem.weight", "norm.bias", "back.weight", "back_norm.weight"}
    assert {m.tensor for m in stem.members if m.reads} == {"mid.weight", "fc.weight"}


def test_slopes_go_with_their_channels():
    stem = next(group for group in coupled(Sloped).groups if group.name == "stem")
    assert stem.size == 4
    assert {m.tensor for m in stem.members} >= {"slopes.weight", "back.weight", "excite.weight", "fc.weight"}


def test_a_flattened_image_is_read_pixel_by_pixel():
    fc = [m for g in coupled(Joined).groups for m in g.members if m.tensor == "fc.weight"]
    assert sorted(np.concatenate([m.index.reshape(-1) for m in fc]).tolist()) == list(range(32))


def test_zero_padding_of_a_shortcut_keeps_its_channels():
    _, channels = coupled_zoo(resnet20, (3, 32, 32))
    stem = channels.groups[0]
    last = next(m for m in stem.members if m.tensor == "linear.weight")
    assert (stem.size, last.index.reshape(-1).tolist()) == (16, list(range(24, 40)))


REASONS = {
    "shared": ("conv", "fixed size"),
    "tied": ("words", "looked up"),
    "attention": ("mix.out_proj", "no plain layer"),
    "excite": ("conv", "the network returns it"),
    "norms": ("conv", "group_norm"),
    "lstm": ("words", "lstm"),
    "windows": ("qkv", "sums over it"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_cannot_go_has_a_reason(name):
    layer, reason = REASONS[name]
    channels = couple(trace(*NETWORKS[name].build()))
    assert channels.count == 0 or name == "excite"
    assert reason in channels.fixed[layer]


@given(st.data())
def test_reshaping_against_labels_of_every_element(data):
    parts = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    cuts = [sorted(data.draw(st.sets(st.integers(1, len(parts))))) for _ in range(2)]
    old, new = ([int(np.prod(part)) for part in np.split(np.array(parts), cut) if len(part)] for cut in cuts)
    axis = data.draw(st.integers(0, len(old) - 1))
    labels = Labels()
    given_labels = labels.fresh(old[axis]) if old[axis] > 1 else None
    axes = tuple(given_labels if number == axis else None for number in range(len(old)))
    found = reshaped(labels, axes, old, new)
    shape = [-1 if number == axis else 1 for number in range(len(old))]
    every = np.broadcast_to(np.arange(old[axis]).reshape(shape), old).reshape(new)
    component, fixed = labels.components()
    going = [n for n, of in enumerate(found) if of is not None and not set(component[of]) <= fixed.keys()]
    assert len(going) == (given_labels is not None)
    for place in going:
        along = component[found[place]].reshape([-1 if number == place else 1 for number in range(len(new))])
        assert (component[given_labels][every] == along).all()


@given(st.lists(st.integers(2, 4), min_size=2, max_size=4), st.data())
def test_of_an_axis_that_is_cut_one_part_can_go_and_back_together_the_same_elements(sizes, data):
    """The part that nothing fixes; the first, where there are several; none, where all are fixed."""
    labels, count = Labels(), int(np.prod(sizes))
    whole = labels.fresh(count)
    parts = reshaped(labels, (None, whole), (5, count), (5, *sizes))
    (again,) = reshaped(labels, parts[1:], sizes, (count,))
    fixed_parts = data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    for number in fixed_parts:
        labels.fix(parts[1 + number], f"reason {number}")
    component, fixed = labels.components()
    free = [number for number in range(len(sizes)) if number not in fixed_parts]
    if free:
        lines = np.moveaxis(component[whole].reshape(sizes), free[0], 0).reshape(sizes[free[0]], -1)
        assert (lines == lines[:, :1]).all() and len(set(lines[:, 0])) == sizes[free[0]]
        assert (component[whole] == component[again]).all() and not fixed.keys() & set(component[whole])
    else:
        assert all("reason 0; reason 1" in fixed[number] for number in component[[*whole, *again]])
