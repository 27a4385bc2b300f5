"""The graph says what the network does: names, layers, sizes, multiply-accumulates."""

import networks
import pytest
import torch
from networks import NETWORKS, traced
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from featherweight.capture import trace
from featherweight.errors import FeatherweightError, TaskError, UnsupportedError

TRACED = [name for name in NETWORKS if name not in ("data-dependent", "counter", "broken", "numbers")]


@pytest.mark.parametrize("name", TRACED)
def test_every_network_is_a_consistent_graph(name):
    module, _, graph = traced(name)
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names)
    made = set()
    for node in graph.nodes:
        assert set(node.inputs) <= made, "a node reads what is made before it"
        assert set(node.tensors) <= set(graph.views)
        made.add(node.name)
        module.get_submodule(node.module)
    assert set(graph.outputs) <= made
    assert all(node in graph.consumers(edge) for node in graph.nodes for edge in node.inputs)
    assert not graph.uncounted or name in ("slicing", "no operator", "bags", "random"), graph.uncounted


@pytest.mark.parametrize("name", TRACED)
def test_every_parameter_is_read_by_a_layer(name):
    module, _, graph = traced(name)
    first = {id(p): n for n, p in reversed(list(module.named_parameters(remove_duplicate=False)))}
    read = {tensor for node in graph.nodes for tensor in node.tensors}
    assert set(first.values()) <= read
    assert all(view.shape == tuple(module.state_dict()[n].shape) for n, view in graph.views.items())


@pytest.mark.parametrize(
    "name",
    ["functional", "transposed", "separable", "residual", "volumes", "reshape", "excite", "two inputs"],
)
def test_macs_are_what_torch_counts(name):
    module, example, graph = traced(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**example) if isinstance(example, dict) else module(example)
    assert graph.macs * 2 * 2 == counter.get_total_flops(), "two samples, two operations each"


def test_names_say_what_the_node_does():
    _, _, graph = traced("residual")
    assert [node.name for node in graph.nodes][:5] == ["x", "conv2d", "batch_norm", "relu", "conv2d_1"]
    assert graph.node("conv2d_1").module == "two"
    assert graph.node("conv2d").shape == (2, 6, 8, 8)
    assert graph.node("conv2d").free == (0,)
    assert {node.name for node in graph.consumers("relu")} == {"conv2d_1", "add", "cat"}
    assert graph.node("cat").inputs == ("relu", "relu_1")


def test_a_module_called_twice_is_two_layers_with_one_path():
    _, _, graph = traced("shared")
    assert [node.module for node in graph.nodes if node.tensors] == ["conv", "norm", "conv", "norm"]
    assert len(graph.readers("conv.weight")) == 2


def test_tied_tensors_have_their_first_name():
    _, _, graph = traced("tied")
    assert [node.tensors for node in graph.nodes if node.tensors] == [("words.weight",), ("words.weight",)]


def test_a_computed_weight_counts_as_its_sources():
    _, _, graph = traced("parametrized")
    conv = next(node for node in graph.nodes if node.op == "conv1d")
    weight = "a.parametrizations.weight.original"
    assert sorted(conv.tensors) == ["a.bias", f"{weight}0", f"{weight}1"]
    assert dict(graph.node("conv1d").roles) == {"bias": "a.bias"}


def test_recurrent_macs():
    _, _, graph = traced("lstm")
    one_direction = 4 * 5 * (6 + 5)
    assert next(node.macs for node in graph.nodes if node.op == "lstm") == 6 * 2 * one_direction


def test_the_same_graph_again():
    module, example, graph = traced("residual")
    assert trace(module, example) == graph


def test_tracing_leaves_the_network_and_torch_alone():
    module, example = NETWORKS["separable"].build()
    module.train()
    module.body[1].eval()
    before = [part.training for part in module.modules()]
    torch.backends.mha.set_fastpath_enabled(True)
    trace(module, example)
    assert [part.training for part in module.modules()] == before
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_one_sample_is_enough_for_a_free_batch():
    graph = trace(nn.Linear(4, 3).eval(), torch.randn(1, 4))
    assert graph.node("input").free == (0,)
    assert graph.macs == 12


def test_what_cannot_be_traced_says_where_and_why():
    module, example = NETWORKS["data-dependent"].build()
    with pytest.raises(UnsupportedError) as refusal:
        trace(module, example)
    text = str(refusal.value)
    assert text.startswith("choose (Inner): cannot be traced: its control flow")
    assert "if x.sum() > 0" in text
    assert len(text) < 400


@pytest.mark.parametrize("name", ["counter", "broken", "numbers"])
def test_other_refusals_are_one_error(name):
    module, example = NETWORKS[name].build()
    with pytest.raises(FeatherweightError):
        trace(module, example)


def test_a_dynamic_axis_that_is_not_there():
    with pytest.raises(TaskError, match="no such input or axis"):
        trace(networks.Functional().eval(), networks.images(), dynamic={"y": (0,)})
