"""Every network: its stored graph runs and equals it, or one clear error; and what the graph holds."""

import hashlib
import os
import re
import subprocess
import sys
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import zstandard
from networks import NETWORKS, exported, traced
from torch import nn

from featherweight.artifact import Contents, Raw, load, write
from featherweight.capture import canonical_names
from featherweight.capture.pytree import flatten_inputs
from featherweight.errors import FeatherweightError, UnsupportedError
from featherweight.export import build_onnx, onnx_of
from featherweight.export.onnx import export
from featherweight.runtime import Session
from featherweight.task import call

RUN = [name for name, network in NETWORKS.items() if not network.refused]
REFUSED = [name for name, network in NETWORKS.items() if network.refused]


def arrays(module):
    state = module.state_dict()
    return {name: state[name].numpy() for name in dict.fromkeys(canonical_names(module).values())}


@pytest.fixture(scope="module", autouse=True)
def registry_read_once():
    """torch reads the source of 500 translations at every export: half its time, and always the same."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


def flat(value):
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return [np.asarray(value.detach() if isinstance(value, torch.Tensor) else value)]
    if value is None:
        return []
    parts = (
        value.values()
        if isinstance(value, dict)
        else vars(value).values()
        if hasattr(value, "__dict__")
        else value
    )
    return [leaf for part in parts for leaf in flat(part)]


def assert_equal(got, expected):
    assert len(flat(got)) == len(flat(expected))
    for a, b in zip(flat(got), flat(expected), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1e-3, np.abs(b).max(initial=0)))


@pytest.mark.parametrize("name", RUN)
def test_session_equals_module(name):
    module, example, stored = exported(name)
    session = Session.of(stored, arrays(module))
    with torch.no_grad():
        expected = call(module, example)
    assert_equal(session.run(example), expected)
    named = {k: v.numpy() for k, v in flatten_inputs(module, example).items()}
    assert [entry.name for entry in session.inputs] == list(named)
    assert_equal(session.run(named), expected)


@pytest.mark.parametrize("name", ["residual", "tied", "lstm", "double", "two inputs", "dataclass"])
def test_a_file_runs_as_the_network_does(name, tmp_path):
    module, example, stored = exported(name)
    canonical = canonical_names(module)
    tensors = {n: Raw.of(array) for n, array in arrays(module).items()}
    aliases = {n: first for n, first in canonical.items() if n != first}
    write(tmp_path / "model.fw", Contents(tensors, aliases, graph=stored))
    artifact = load(tmp_path / "model.fw")
    with torch.no_grad():
        assert_equal(artifact.session(threads=1).run(example), call(module, example))
    onnx.checker.check_model(onnx_of(artifact), full_check=True)


@pytest.mark.parametrize("name", RUN)
def test_the_graph_holds_the_structure_and_not_the_weights(name):
    module, _, stored = exported(name)
    model = onnx.ModelProto.FromString(stored.onnx)
    onnx.checker.check_model(build_onnx(stored, arrays(module)), full_check=True)
    assert {entry.tensor for entry in stored.initialisers} <= set(arrays(module))
    assert not model.graph.value_info
    assert not any(node.name or node.doc_string or node.metadata_props for node in model.graph.node)
    values = [n for node in model.graph.node for n in node.output] + [
        tensor.name for tensor in model.graph.initializer
    ]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_one_error_that_says_why(name):
    module, example = NETWORKS[name].build()
    with pytest.raises(FeatherweightError) as refusal:
        export(module, example)
    text = str(refusal.value)
    assert re.search(NETWORKS[name].refused.replace("(", r"\(").replace(")", r"\)"), text), text
    assert len(text) < 500
    assert not re.search(r"tlparse|%\w+|unhinted|call_function", text)


@pytest.mark.parametrize("times", [2, 4, 3])
def test_free_sizes_that_are_multiples(times):
    class Skips(nn.Module):
        def forward(self, x):
            return x + F.interpolate(F.avg_pool2d(x, times), scale_factor=float(times))

    image, other = torch.randn(2, 1, 12, 12), torch.randn(1, 1, 24, 36)
    if times == 3:  # no power of two
        with pytest.raises(UnsupportedError, match=r"the network fails on other sizes.*\[3, 1, 13, 13\]"):
            export(Skips(), image, dynamic={"x": (0, 2, 3)})
        return
    session = Session.of(export(Skips(), image, dynamic={"x": (0, 2, 3)}), {})
    np.testing.assert_allclose(session.run(other.numpy()), Skips()(other).numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["residual", "separable", "attention", "transposed", "lstm", "windows"])
def test_values_are_named_after_edges(name):
    """Run the graph with every activation as an output: each equals the layer's own output in PyTorch."""
    module, example, stored = exported(name)
    graph = traced(name)[2]
    model = build_onnx(stored, arrays(module))
    made = {value for node in model.graph.node for value in node.output}
    named = [node for node in graph.nodes if node.name in made and node.module and node.op != "input"]
    assert {
        node.name for node in graph.nodes if node.op in ("conv2d", "batch_norm", "relu", "add", "cat")
    } <= made
    seen = outputs_of_layers(module, example)
    last = {node.module: node for node in named}
    del model.graph.output[:]
    wanted = [node for path, node in last.items() if path in seen and seen[path].shape == node.shape]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(node.name) for node in wanted)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    results = session.run(None, {k: v.numpy() for k, v in flatten_inputs(module, example).items()})
    assert wanted
    for node, result in zip(wanted, results, strict=True):
        np.testing.assert_allclose(result, seen[node.module], rtol=0, atol=2e-5, err_msg=node.name)


def outputs_of_layers(module, example):
    seen = {}

    def keep(path):
        def hook(_, __, output):
            seen.setdefault(path, flat(output)[0].copy())

        return hook

    leaves = [(path, part) for path, part in module.named_modules() if path and not list(part.children())]
    hooks = [part.register_forward_hook(keep(path)) for path, part in leaves]
    with torch.no_grad():
        call(module, example)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", ["functional", "residual", "two inputs", "state", "windows", "class token"])
def test_the_batch_is_free(name):
    module, example, stored = exported(name)
    session = Session.of(stored, arrays(module))
    for count in (1, 5):
        more = resized(example, count)
        with torch.no_grad():
            assert_equal(session.run(more), call(module, more))


def resized(value, count):
    if isinstance(value, torch.Tensor):
        return torch.randn(count, *value.shape[1:])
    if isinstance(value, dict):
        return {key: resized(part, count) for key, part in value.items()}
    return tuple(resized(part, count) for part in value) if isinstance(value, tuple) else value


def test_the_sequence_is_free_where_the_task_says_so():
    module, _, stored = exported("transformer")
    session = Session.of(stored, arrays(module))
    for length in (1, 3, 16):
        ids = torch.randint(0, 11, (3, length))
        with torch.no_grad():
            assert_equal(session.run(ids), module(ids))


def test_a_written_out_batch_stays_static():
    _, _, stored = exported("fixed batch")
    assert Session.of(stored, arrays(exported("fixed batch")[0])).inputs[0].shape == (2, 3, 4)


def test_other_weights_in_the_same_graph():
    """The session runs with what a compression step changed: no old weights are left in the graph."""
    for name in ("residual", "parametrized", "attention", "lstm", "transposed", "lists", "tied", "norms"):
        _, example, stored = exported(name)
        other = NETWORKS[name].build()[0]
        with torch.no_grad():
            for tensor in other.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand_like(tensor) * 0.5 + 0.1)
            assert_equal(Session.of(stored, arrays(other)).run(example), call(other, example))


def test_batch_norm_and_its_convolution_stay_apart():
    _, _, stored = exported("residual")
    nodes = onnx.ModelProto.FromString(stored.onnx).graph.node
    ops = [node.op_type for node in nodes]
    assert [len(node.input) for node in nodes if node.op_type == "Conv"] == [2, 2, 3]
    assert ops.count("BatchNormalization") == 3
    assert not {"Gather", "Shape", "Range", "Identity", "Constant"} & set(ops)
    assert {entry.tensor for entry in stored.initialisers} >= {
        "norm1.running_var",
        "norm3.running_mean",
        "one.weight",
    }


class Derived(nn.Module):
    """Its weight is computed while it is traced, out of sight of the tracer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.cached = None

    def forward(self, x):
        if self.cached is None:
            self.cached = self.fc.weight.detach().numpy() * 2
        return x @ torch.from_numpy(self.cached) + self.fc(x)


def test_numbers_that_were_fixed_at_export_are_no_weights():
    module = Derived().eval()
    x = torch.randn(2, 4)
    module(x)  # the cache now holds a copy of the weights that no tensor of the module explains
    stored = export(module, x)
    assert {entry.tensor for entry in stored.initialisers} == {"fc.weight", "fc.bias"}


def test_what_differs_is_named():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.noise = nn.Dropout(0.5)

        def forward(self, x):
            return self.second(torch.nn.functional.dropout(self.first(x), 0.5, training=True))

    with pytest.raises(
        UnsupportedError, match=r"dropout.*the exported graph is not the network: output differs"
    ):
        export(Noisy().eval(), torch.randn(2, 4))


class Chosen(nn.Module):
    """The mean over the rows that pass a test: of some made-up values none does, and the mean is NaN."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        rows = self.fc(x)
        return rows[rows.sum(1) > 0].mean(0, keepdim=True).expand(len(x), -1)


def test_made_up_values_of_which_the_network_computes_nan_say_nothing():
    torch.manual_seed(0)
    module, x = Chosen().eval(), torch.randn(64, 8)
    passing = x[module.fc(x).sum(1) > 0][:2]
    session = Session.of(export(module, passing), arrays(module))
    assert np.abs(session.run(x.numpy()) - module(x).detach().numpy()).max() < 1e-5


def test_a_strided_example_makes_the_same_graph():
    module, example, stored = exported("residual")
    assert export(module, example.to(memory_format=torch.channels_last)) == stored


def test_export_leaves_the_network_alone():
    module, example = NETWORKS["residual"].build()
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    export(module, example)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


SCRIPT = """
import hashlib, sys; sys.path.insert(0, {tests!r})
from networks import NETWORKS
from featherweight.export.onnx import export
for name in {names!r}:
    print(hashlib.sha256(export(*NETWORKS[name].build()).onnx).hexdigest())
"""


@pytest.mark.parametrize("seed", ["0", "4"])  # torch's exporter orders what loops carry by hashes of strings
def test_the_same_bytes_in_another_process(request, seed):
    names = ["attention", "bags"]
    script = SCRIPT.format(tests=str(request.config.rootpath / "tests"), names=names)
    environment = os.environ | {"PYTHONHASHSEED": seed}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert run.stdout.split() == [hashlib.sha256(exported(name)[2].onnx).hexdigest() for name in names]
    assert run.stderr == ""


def test_a_small_network_has_a_small_graph():
    lenet = nn.Sequential(
        nn.Conv2d(1, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(800, 500),
        nn.ReLU(),
        nn.Linear(500, 10),
    ).eval()
    stored = export(lenet, torch.randn(2, 1, 28, 28))
    assert len(zstandard.ZstdCompressor(level=19).compress(stored.onnx)) < 512


class Cancelling(nn.Module):
    """Large sums that nearly cancel: float32 itself is far from the truth."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(512, 8)

    def forward(self, x):
        wide = torch.cat([x * 1e3, -x * 1e3 + x * 1e-2], 1)
        return self.a(wide) - self.a(wide.flip(1).flip(1)) * (1 - 1e-5)


def test_the_bound_is_the_networks_own_error_of_float32():
    from featherweight.capture.program import capture
    from featherweight.export.check import TOLERANCE, bound

    torch.manual_seed(0)
    x = torch.randn(4, 256)
    program = capture(Cancelling().eval(), x)
    assert 1e-4 < bound(program, program.example, program.run(program.example)) <= 1e-3
    export(Cancelling().eval(), x)
    plain = capture(nn.Linear(4, 2).eval(), torch.randn(2, 4))
    assert bound(plain, plain.example, plain.run(plain.example)) == TOLERANCE
