"""Where networks are cut: nothing passes by a cut, stages cover the network, bad cuts are refused."""

import pytest
import torch
from networks import NETWORKS
from skip_network import Net

from featherweight.errors import ConfigError, FeatherweightError
from featherweight.graph.stages import cuts_of, stages_of
from featherweight.model import Model


def graph():
    return Model.of(Net()).program(torch.zeros(2, 1, 6, 6)).graph


def test_blocks_are_cut_where_they_meet_and_before_the_pool():
    found = stages_of(graph(), "block", ["blocks.0", "blocks.1"])
    assert [(stage.name, stage.targets) for stage in found] == [
        ("stem", ("relu",)), ("blocks.0", ("relu_2",)), ("blocks.1", ("relu_4",)), ("fc", ("linear",)),
    ]  # fmt: skip
    assert found[1].tensors == (
        "blocks.0.a.weight",
        "blocks.0.a.bias",
        "blocks.0.b.weight",
        "blocks.0.b.bias",
    )


def test_a_layer_ends_behind_its_activation_function_if_that_alone_reads_it():
    found = stages_of(graph(), "layer")
    assert [stage.targets[0] for stage in found] == [
        "relu",
        "relu_1",
        "conv2d_2",
        "relu_3",
        "conv2d_4",
        "linear",
    ]


def test_cuts_by_hand():
    found = stages_of(graph(), ["relu_2"])
    assert [stage.targets for stage in found] == [("relu_2",), ("linear",)]
    with pytest.raises(ConfigError, match=r"relu_1.*no place to cut.*expected one of.*relu_2"):
        stages_of(graph(), ["relu_1"])  # the skip connection passes by


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_follows_a_cut_reads_nothing_else_of_what_has_a_weight(name):
    if NETWORKS[name].refused:
        pytest.skip(f"no graph: {NETWORKS[name].refused}")
    module, example = NETWORKS[name].build()
    try:
        found = Model.of(module).program(example).graph
    except FeatherweightError as error:
        pytest.skip(f"no graph: {error}")
    weighted = set()
    for node in found.nodes:
        if node.tensors or weighted & {*node.inputs}:
            weighted.add(node.name)
    places = {node.name: place for place, node in enumerate(found.nodes)}
    for cut in cuts_of(found):
        before = {name for name in weighted if places[name] <= places[cut]}
        after = [node for node in found.nodes if places[node.name] > places[cut]]
        read = {edge for node in after for edge in node.inputs} | {*found.outputs}
        assert before & read == {cut}
    stages = stages_of(found, "block")
    assert [edge for stage in stages for edge in stage.nodes] == [
        n.name for n in found.nodes if n.op != "input"
    ]
    assert stages[-1].targets == found.outputs
