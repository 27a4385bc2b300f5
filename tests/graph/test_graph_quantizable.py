"""Where quantizers go, on graphs written by hand."""

from featherweight.graph.graph import Graph, Node
from featherweight.graph.quantizable import quantizable


def node(name, op, *inputs, weight="", **arguments):
    roles = (("weight", weight),) if weight else ()
    tensors = (weight,) if weight else ()
    module = weight.removesuffix(".weight")
    return Node(name, op, inputs, tensors, roles, module, (2, 4), (), "float32", 0, tuple(arguments.items()))


def plan(*nodes, outputs=None, skip=()):
    return quantizable(Graph((node("x", "input"), *nodes), tuple(outputs or [nodes[-1].name]), {}), skip)


def conv(name, source):
    return node(name, "conv2d", source, weight=f"{name}.weight")


def test_a_relu_that_alone_reads_a_layer_is_part_of_it():
    assert plan(conv("a", "x"), node("r", "relu", "a"), conv("b", "r")).shared == (("x",), ("r",), ("b",))


def test_a_relu_that_does_not_read_alone_is_not():
    found = plan(conv("a", "x"), node("r", "relu", "a"), node("s", "add", "r", "a"))
    assert found.shared == (("x",), ("a", "r", "s"))
    returned = plan(conv("a", "x"), node("r", "relu", "a"), conv("b", "r"), outputs=["a", "b"])
    assert ("a",) in returned.shared


def test_additions_and_concatenations_share_one():
    found = plan(conv("a", "x"), conv("b", "a"), node("s", "add", "a", "b"), node("c", "cat", "s", "a"))
    assert found.shared == (("x",), ("a", "b", "s", "c"))


def test_a_sum_behind_a_clamp_has_its_own():
    found = plan(
        conv("a", "x"), conv("b", "a"), node("s", "add", "a", "b"), node("r", "relu", "s"), conv("c", "r")
    )
    assert found.shared == (("x",), ("a", "b"), ("r",), ("c",))


def test_what_moves_numbers_shares():
    found = plan(
        conv("a", "x"), node("m", "max_pool2d", "a"), node("p", "pad", "m", value=0.0), conv("b", "p"),
        node("q", "pad", "b", value=1.0), conv("c", "q"),
    )  # fmt: skip
    assert found.shared == (("x",), ("a", "m", "p"), ("b",), ("q",), ("c",))


def test_the_last_linear_layer_writes_floats():
    linear = node("l", "linear", "x", weight="l.weight")
    assert plan(linear).shared == (("x",),)
    assert plan(linear, node("g", "gelu", "l")).shared == (("x",),)


def test_what_is_left_in_float_is_said():
    norm = node("n", "batch_norm", "a", weight="n.weight")
    found = plan(conv("a", "x"), norm, conv("b", "n"), skip={"b"})
    assert found.shared == (("x",), ("a",))
    assert found.skipped == {"n": "batch_norm has no integer form here", "b": "asked for"}


def test_scaled_sums_and_sums_with_parameters_are_not_quantized():
    assert plan(conv("a", "x"), node("s", "add", "a", "x", alpha=2)).shared == (("x",), ("a",))
    assert plan(node("s", "add", "x", weight="position")).shared == ()
