"""Heads of attention, however it is written: groups, costs; a pruned network computes what the silenced one does."""

from functools import cache

import attention_networks as networks
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS

from featherweight.capture import trace
from featherweight.graph.channels import couple
from featherweight.model import Model
from featherweight.techniques.surgery import computed, pruned, silenced


def image():
    return torch.randn(2, 1, 4, 4)


def llama(block):
    return lambda: networks.Llama(block=block)


# How it is made, its example, heads and channels of its groups.
CASES = {
    "bert": (networks.Bert, networks.ids, [3, 10, 3, 10]),
    "gpt": (networks.Gpt, networks.ids, [3, 10, 3, 10]),
    "vit": (networks.Vit, image, [3, 10, 3, 10]),
    "llama": (networks.Llama, networks.ids, [2, 10, 2, 10]),
    "llama, grouped": (llama(networks.GroupedBlock), networks.ids, [2, 10, 2, 10]),
    "llama, repeated": (llama(networks.RepeatedBlock), networks.ids, [2, 10, 2, 10]),
    "t5": (networks.T5, networks.ids, [3, 10, 10]),
    "alibi": (networks.Alibi, networks.ids, [10, 10]),
    "one head": (networks.OneHead, image, [12]),
}


@cache
def case(name):
    torch.manual_seed(0)
    make, example, sizes = CASES[name]
    model, inputs = Model.of(make().eval()), example()
    return model, inputs, couple(trace(model.module, inputs)), sizes


def some(channels, seed):
    """Random channels that stay, at least one of every group."""
    kept = np.random.default_rng(seed).random(channels.count) < 0.6
    kept[np.cumsum([0, *(group.size for group in channels.groups)])[:-1]] = True
    return kept


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(CASES)), st.integers(0, 2**32 - 1))
def test_pruned_equals_silenced(name, seed):
    model, inputs, channels, _ = case(name)
    kept = some(channels, seed)
    (small,), (silent,) = (computed(made(model, channels, kept), inputs) for made in (pruned, silenced))
    assert float((small - silent).abs().max()) <= 1e-5 * float(silent.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_groups_and_what_they_cost(name):
    model, inputs, channels, sizes = case(name)
    assert [group.size for group in channels.groups] == sizes
    kept = some(channels, 1)
    small = pruned(model, channels, kept)
    assert channels.macs(kept) == trace(small.module, inputs).macs
    assert channels.parameters(kept) == sum(p.numel() for p in small.module.parameters())


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("bert", {"query.weight": 4, "key.weight": 4, "value.bias": 4, "out.weight": 4}),
        ("gpt", {"qkv.weight": 12, "qkv.bias": 12, "out.weight": 4}),
        ("vit", {"qkv.weight": 12, "proj.weight": 4}),
        ("llama", {"q.weight": 8, "k.weight": 4, "v.weight": 4, "o.weight": 8}),
    ],
)
def test_a_head_is_its_rows_of_each_projection_and_its_columns_of_the_last(name, first):
    group = case(name)[2].groups[0]
    found = {member.tensor.removeprefix("blocks.0."): member.index.shape for member in group.members}
    assert group.heads and found.items() >= {n: (group.size, rows) for n, rows in first.items()}.items()


def test_a_bias_of_all_blocks_holds_their_heads_together():
    group = case("t5")[2].groups[0]
    tensors = {member.tensor for member in group.members}
    assert group.heads and tensors >= {"bias.weight", "blocks.0.q.weight", "blocks.1.o.weight"}


def test_what_a_head_meets_and_no_layer_holds_is_named():
    _, _, channels, _ = case("alibi")
    for layer in ("query", "key", "value"):
        assert channels.fixed[f"blocks.0.{layer}"].startswith("slopes stays: the network (Alibi)")


def test_attention_of_torch_itself_is_named():
    channels = couple(trace(*NETWORKS["attention"].build()))
    assert not channels.groups
    for layer in ("words", "mix.out_proj"):
        assert channels.fixed[layer].startswith("mix.in_proj_weight stays: mix (MultiheadAttention)")
