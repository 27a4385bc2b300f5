"""Hostile stored graphs: each kind by name, and random damage to the messages of a graph that runs."""

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper

from featherweight.artifact import Initialiser, StoredGraph

W = np.arange(12, dtype=np.float32).reshape(3, 4)
TABLE = (Initialiser("w", "fc", (1, 0)), Initialiser("b", "bias"))
TENSORS = {"fc": W, "bias": np.zeros(3, np.float32)}


def model(nodes=(), initialisers=(), functions=(), **options):
    """`y = clip(x w + b) * c`, and more nodes behind it."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 4), ("y", 3))]
    first = [
        helper.make_node("Gemm", ["x", "w", "b"], ["fc"]),
        helper.make_node("Clip", ["fc", "low"], ["clip"]),
        helper.make_node("Mul", ["clip", "c"], ["y"]),
    ]
    constants = [
        helper.make_tensor("low", TensorProto.FLOAT, [], [0.0]),
        onnx.numpy_helper.from_array(np.ones(3, np.float32), "c"),
    ]
    graph = helper.make_graph(
        [*first, *nodes], "g", values[:1], values[1:], [*constants, *initialisers], **options
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=9)


def stored(made, table=TABLE):
    return StoredGraph(made if isinstance(made, bytes) else made.SerializeToString(), tuple(table))


def external(name="k"):
    """A tensor that lies in another file."""
    tensor = TensorProto(name=name, data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "secret.bin"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def constant(**attribute):
    """A Constant with one attribute, built field by field."""
    node = helper.make_node("Constant", [], ["k"])
    made = node.attribute.add()
    for name, value in attribute.items():
        if isinstance(value, str | int):
            setattr(made, name, value)
        else:
            getattr(made, name).CopyFrom(value)
    return node


def branch(tensor):
    """An If whose branches hold a tensor."""
    inner = helper.make_graph(
        [helper.make_node("Identity", [tensor.name], ["z"])], "s", [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [4])], initializer=[tensor],
    )  # fmt: skip
    truth = helper.make_node(
        "Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])
    )
    return [truth, helper.make_node("If", ["t"], ["u"], then_branch=inner, else_branch=inner)]


def function(name, nodes):
    return helper.make_function(
        "evil", name, ["x"], ["u"], nodes, [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    )


def call(name, value="x", to="u"):
    return helper.make_node(name, [value], [to], domain="evil")


def sparse(dims):
    """Few values of a tensor that is large, or lies in a file."""
    made = onnx.SparseTensorProto()
    made.values.CopyFrom(external("v") if dims == [4] else helper.make_tensor("v", 1, [1], [1.0]))
    made.indices.CopyFrom(helper.make_tensor("i", 7, [1], [0]))
    made.dims.extend(dims)
    return made


def text(made, old, new):
    """The bytes of a model with a name of the same length put in the place of another."""
    content = made.SerializeToString()
    assert len(old) == len(new)
    assert old in content
    return content.replace(old, new)


def kinds():
    """Yield name, stored graph, and a part of the error of each kind."""
    files = "refers to other files"
    yield "external initialiser", stored(model(initialisers=[external()])), files
    yield (
        "external constant",
        stored(model([constant(name="value", type=AttributeProto.TENSOR, t=external())])),
        files,
    )
    yield "external in a branch", stored(model(branch(external()))), files
    inside = function("F", [*branch(external())])
    yield "external in a function", stored(model([call("F")], functions=[inside])), files
    unused = function("F", [constant(name="value", type=AttributeProto.TENSOR, t=external())])
    yield "external in a function that nothing calls", stored(model(functions=[unused])), files
    training = model()
    training.training_info.add().algorithm.initializer.append(external())
    yield "external in training", stored(training), "other files|TrainingInfoProto"
    for dims in ([4], [1 << 40]):
        node = constant(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse(dims))
        yield f"sparse constant {dims}", stored(model([node])), "SparseTensorProto"
        initialiser = model(sparse_initializer=[sparse(dims)])
        yield f"sparse initialiser {dims}", stored(initialiser), "SparseTensorProto"
    large = TensorProto(name="k", data_type=1, dims=[1 << 40], float_data=[1.0])
    yield "declared size", stored(model(initialisers=[large])), "declares more than it holds"
    node = constant(name="value", type=AttributeProto.TENSOR, t=TensorProto(data_type=1, dims=[1 << 40]))
    yield "declared size of a constant", stored(model([node])), "declares more than it holds"
    negative = TensorProto(name="k", data_type=1, dims=[-1, -4], float_data=[1.0] * 4)
    yield "negative size", stored(model(initialisers=[negative])), "declares more than it holds"
    yield (
        "unfilled",
        stored(model(initialisers=[TensorProto(name="k", data_type=1, dims=[1 << 40])])),
        "no tensor of the",
    )
    twice = [helper.make_tensor("k", 1, [1], [1.0]), helper.make_tensor("k", 1, [1], [2.0])]
    yield "initialiser twice", stored(model(initialisers=twice)), "appears twice"
    yield "filled and in the table", stored(model(), [*TABLE, Initialiser("c", "bias")]), "appears twice"
    yield (
        "a function in itself",
        stored(model([call("F")], functions=[function("F", [call("F")])])),
        "calls itself",
    )
    chain = [
        function(f"F{n}", [call(f"F{n + 1}", to=f"v{k}") for k in range(9)] + [call(f"F{n + 1}")])
        for n in range(19)
    ]
    chain.append(function("F19", [helper.make_node("Neg", ["x"], ["u"])]))
    yield "functions of functions", stored(model([call("F0")], functions=chain)), "expand without bound"
    flood = model([onnx.NodeProto()] * ((1 << 20) + 1))
    yield "a flood of messages", stored(flood), "too large a graph"
    many = tuple(Initialiser(f"w{n}", "large") for n in range(20_000))
    reading = [helper.make_node("Identity", [entry.name], [f"{entry.name}/y"]) for entry in many]
    yield "one tensor in many places", stored(model(reading), [*TABLE, *many]), "too large for the tensors"
    turning = [helper.make_node("Transpose", ["large"], [f"t{n}"]) for n in range(20_000)]
    yield (
        "one tensor turned often",
        stored(model(turning), [*TABLE, Initialiser("large", "large")]),
        "too large for the",
    )
    neg = model([helper.make_node("Softsign", ["fc"], ["u"])])
    yield "operator not in UTF-8", stored(text(neg, b"Softsign", b"\xff\xfe\xfdtsign")), "not UTF-8"
    yield "value not in UTF-8", stored(text(model(), b"clip", b"\xffli\xfe")), "not UTF-8"
    yield "cycle", stored(model([helper.make_node("Add", ["u", "x"], ["u"])])), "malformed"
    yield "a value written twice", stored(model([helper.make_node("Neg", ["x"], ["fc"])])), "malformed"
    yield "not a model", stored(b"\xff\xff\xff"), "not an ONNX model"
    nested = AttributeProto()
    for _ in range(60):
        outer = AttributeProto(name="a", type=AttributeProto.GRAPH)
        outer.g.node.add(op_type="If").attribute.add().CopyFrom(nested)
        nested = outer
    deep = model()
    deep.graph.node.add(op_type="If", input=["x"], output=["u"]).attribute.add().CopyFrom(nested)
    yield "nested deeply", stored(deep), "graph: "


def damaged(count, seed=0):
    """Yield the graph with bytes changed, or with one message dropped, doubled or put in another's place."""
    generator = np.random.default_rng(seed)
    content = model(
        [helper.make_node("Transpose", ["fc"], ["t"], perm=[1, 0]), *branch(external("k"))]
    ).SerializeToString()
    plain = model([helper.make_node("Transpose", ["fc"], ["t"], perm=[1, 0])])
    for number in range(count):
        if number % 2:
            mutated = bytearray(content if number % 4 == 1 else plain.SerializeToString())
            for _ in range(generator.integers(1, 4)):
                mutated[generator.integers(len(mutated))] = generator.integers(256)
            yield stored(bytes(mutated))
            continue
        made = onnx.ModelProto()
        made.CopyFrom(plain)
        graph = made.graph
        lists = [graph.node, graph.input, graph.output, graph.initializer, made.opset_import]
        lists += [node.attribute for node in graph.node]
        chosen = [field for field in lists if len(field)][generator.integers(5)]
        place = int(generator.integers(len(chosen)))
        action = generator.integers(4)
        if action == 0:
            del chosen[place]
        elif action == 1:
            chosen.add().CopyFrom(chosen[place])
        elif action == 2:
            node = graph.node[generator.integers(len(graph.node))]
            names = node.input if generator.integers(2) else node.output
            names[generator.integers(len(names))] = str(generator.choice(["", "x", "w", "b", "y", "\0", "k"]))
        else:
            node = graph.node[generator.integers(len(graph.node))]
            node.op_type = str(
                generator.choice(["Gemm", "Transpose", "Pad", "AveragePool", "Conv", "If", "Loop", ""])
            )
        yield stored(made)
