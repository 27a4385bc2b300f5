"""Where quantizers go, on graphs written by hand."""

from featherweight.graph.graph import Graph, Node, Operand
from featherweight.graph.quantizable import Join, quantizable


def node(name, op, *inputs, weight="", **arguments):
    operands = [Operand("input", "edge", edge, (2, 4)) for edge in inputs]
    if weight:
        operands.append(Operand("weight", "stored", weight, (4, 4), (weight,)))
    module = weight.removesuffix(".weight")
    return Node(name, op, tuple(operands), module, (2, 4), (), "float32", 0, tuple(arguments.items()))


def plan(*nodes, outputs=None, skip=(), ends=False):
    graph = Graph((node("x", "input"), *nodes), tuple(outputs or [nodes[-1].name]), {})
    return quantizable(graph, skip, outputs=ends)


def conv(name, source):
    return node(name, "conv2d", source, weight=f"{name}.weight")


def test_a_relu_that_alone_reads_a_layer_is_part_of_it():
    assert plan(conv("a", "x"), node("r", "relu", "a"), conv("b", "r")).shared == (("x",), ("r",), ("b",))


def test_a_relu_that_does_not_read_alone_is_not():
    found = plan(conv("a", "x"), node("r", "relu", "a"), node("s", "add", "r", "a"), conv("b", "s"))
    assert found.shared == (("x",), ("a",), ("r",), ("s",), ("b",))
    returned = plan(conv("a", "x"), node("r", "relu", "a"), conv("b", "r"), outputs=["a", "b"])
    assert ("a",) in returned.shared


def test_additions_and_concatenations_may_share_one():
    found = plan(
        conv("a", "x"), conv("b", "a"), node("s", "add", "a", "b"), node("c", "cat", "s", "a"), conv("d", "c")
    )
    assert found.shared == (("x",), ("a",), ("b",), ("s",), ("c",), ("d",))
    assert found.joins == (Join("add", ("a", "b"), "s", True), Join("cat", ("s", "a"), "c", True))


def test_a_sum_behind_a_clamp_has_its_own():
    found = plan(
        conv("a", "x"), conv("b", "a"), node("s", "add", "a", "b"), node("r", "relu", "s"), conv("c", "r")
    )
    assert found.shared == (("x",), ("a",), ("b",), ("r",), ("c",))
    assert found.joins == (Join("add", ("a", "b"), "r", False),)


def test_joins_that_no_integers_read_are_in_float():
    stream = [
        node("n", "layer_norm", "x"), node("l", "linear", "n", weight="l.weight"), node("s", "add", "x", "l"),
        node("m", "layer_norm", "s"), node("k", "linear", "m", weight="k.weight"), node("t", "add", "s", "k"),
    ]  # fmt: skip
    assert plan(*stream).shared == (("n",), ("m",))
    assert plan(conv("a", "x"), node("c", "cat", "a", "x")).shared == (("x",), ("a",))
    read = plan(*stream, node("v", "view", "t"), node("j", "linear", "v", weight="j.weight"))
    assert read.shared == (("x",), ("n",), ("l",), ("s",), ("m",), ("k",), ("t", "v"))


def test_what_can_have_no_quantizer_takes_its_readers_and_writers_along():
    nodes = [conv("a", "x"), node("m", "max_pool2d", "a"), conv("b", "m"), conv("c", "b")]
    graph = Graph((node("x", "input"), *nodes), ("c",), {})
    found = quantizable(graph, floats={"a"})
    assert found.shared == (("b",), ("c",))
    assert found.skipped == dict.fromkeys(("a", "b"), "what it reads or writes has no quantizer")
    assert quantizable(graph, floats={"m"}).shared == (("x",), ("a",), ("b",), ("c",))


def test_operators_can_be_left_out():
    nodes = [conv("a", "x"), conv("b", "x"), node("s", "add", "a", "b"), conv("c", "s")]
    found = plan(*nodes, skip={"s"})
    assert not found.joins and found.skipped == {"s": "asked for"}


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


def test_the_ends_of_a_network_are_quantized_where_that_is_asked_for():
    linear = node("l", "linear", "x", weight="l.weight")
    assert plan(linear, ends=True).shared == (("x",), ("l",))
    assert plan(linear, node("r", "relu", "l"), node("v", "view", "r"), ends=True).shared == (("x",), ("r",))
    assert plan(linear, node("s", "softmax", "l"), ends=True).shared == (("x",), ("l",))
    found = plan(linear, node("s", "add", "x", "l"), ends=True)
    assert found.shared == (("x",), ("l",), ("s",))
    assert found.joins == (Join("add", ("x", "l"), "s", True),)
    assert plan(linear, skip={"l"}, ends=True).shared == ()


def test_what_floats_follow_inside_a_network_stays_float():
    stream = [
        node("l", "linear", "x", weight="l.weight"), node("s", "add", "x", "l"), node("n", "layer_norm", "s"),
        node("k", "linear", "n", weight="k.weight"),
    ]  # fmt: skip
    assert plan(*stream, ends=True).shared == (("x",), ("n",), ("k",))
    assert plan(*stream[:3], ends=True).shared == (("x",), ("l",))


def test_what_is_left_in_float_is_said():
    norm = node("n", "batch_norm", "a", weight="n.weight")
    found = plan(conv("a", "x"), norm, conv("b", "n"), skip={"b"})
    assert found.shared == (("x",), ("a",))
    assert found.skipped == {"n": "batch_norm has no integer form here", "b": "asked for"}


def test_scaled_sums_and_sums_with_parameters_are_not_quantized():
    assert plan(conv("a", "x"), node("s", "add", "a", "x", alpha=2)).shared == (("x",), ("a",))
    assert plan(node("s", "add", "x", weight="position")).shared == ()
