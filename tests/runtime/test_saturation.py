"""8-bit products where int16 sums saturate: which graphs have such, what sessions do, and weights that cannot."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from saturation_oracle import exact, hardest, saturated
from torch import nn

from featherweight.activations import Affine
from featherweight.artifact import dumps, loads
from featherweight.cli.app import run
from featherweight.curvature.linear_ops import Moments
from featherweight.errors import UnsupportedError
from featherweight.evaluation import parity
from featherweight.export import linear_of, onnx_of, qdq_of
from featherweight.export.onnx import export
from featherweight.formats import Int, View
from featherweight.integers import MOST_PAIR, greatest_pair, paired_columns, pairing, steps_of
from featherweight.model import Model
from featherweight.runtime import OnnxBackend, Session, saturation, usable
from featherweight.runtime import session as opened
from featherweight.runtime.backend import OnnxRuntime
from featherweight.runtime.saturation import saturable
from featherweight.techniques import Calibrate, Context, Encode, Gptq
from featherweight.techniques.gptq import swept
from featherweight.techniques.portable import fits

SHAPES = [  # out, in / groups, places; groups
    ((8, 16, 1), 1), ((6, 7, 1), 1), ((4, 4, 9), 1), ((4, 3, 9), 1), ((4, 1, 9), 1),
    ((4, 6, 4), 2), ((4, 3, 4), 2), ((8, 1, 9), 4), ((3, 5, 4), 1),
]  # fmt: skip


def wide(shape, seed=0):
    """Weights many of whose neighbours are large, of one sign."""
    generator = np.random.default_rng(seed)
    return (generator.standard_normal(shape) + 0.7 * generator.choice([-1, 1], (shape[0], 1, 1))).astype(
        np.float32
    )


def integers(encoded):
    return encoded.view.tensor(steps_of(encoded)).astype(np.int8)


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_a_greatest_pair_within_the_bound_is_exact_in_every_order(shape, groups):
    generator = np.random.default_rng(0)
    for most in (40, 64, 65, 100, 127):
        weight = generator.integers(-most, most + 1, shape).astype(np.int8)
        patches = hardest(weight, groups)
        orders = ["channels", "all"] + (["places"] if shape[1] == 1 else [])
        same = all(
            (saturated(patches, weight, o, groups) == exact(patches, weight, groups)).all() for o in orders
        )
        if greatest_pair(weight, groups) <= MOST_PAIR:
            assert same
        elif pairing(shape, groups) == "neighbours":
            assert not same


def test_depthwise_kernels_pair_nothing():
    assert pairing((8, 1, 3, 3), 8) == "none" and greatest_pair(np.full((8, 1, 9), 127, np.int8), 8) == 0
    assert pairing((8, 1, 3, 3), 4) == pairing((8, 1, 3, 3), 1) == "any"
    assert paired_columns((2, 3, 2)).tolist() == [0, 2, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("per", "scales"), [("channel", {}), ("tensor", {}), ("channel", {"scale_type": "float16"})]
)
@pytest.mark.parametrize("order", ["given", "activation"])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_portable_weights_never_saturate(shape, groups, order, per, scales):
    weight, view = wide(shape), View.of(shape)
    weight[0, 0, 0] = 0
    x = np.random.default_rng(1).standard_normal((groups, 4 * view.cols, view.cols)) + 1
    moments = Moments(x.transpose(0, 2, 1) @ x, None)
    kind = pairing(shape, groups)
    format = Int(bits=8, scale_by="mse", per=per, **scales)
    found = swept(view.matrix(weight), moments, format, view, damping=0.01, order=order, kind=kind)
    free = swept(view.matrix(weight), moments, format, view, damping=0.01, order=order)
    steps = integers(found)
    assert found.parts["scale"].dtype == format.parts(view)["scale"].dtype
    assert greatest_pair(steps, groups) <= MOST_PAIR and fits(found, kind) and steps[0, 0, 0] == 0
    random = np.random.default_rng(2).integers(0, 256, (64, shape[1] * groups, shape[2])).astype(np.uint8)
    for patches in (hardest(steps, groups), random):
        for inner in ("channels", "all"):
            np.testing.assert_array_equal(
                saturated(patches, steps, inner, groups), exact(patches, steps, groups)
            )

    def error(encoded):
        apart = (encoded.decode() - weight).reshape(groups, -1, view.cols)
        return np.einsum("grc,gcd,grd->", apart, moments.hessian, apart)

    narrow = Int(bits=7, scale_by="mse", per=per, **scales)
    seven = swept(view.matrix(weight), moments, narrow, view, damping=0.01, order=order)
    assert error(found) <= (1.0 if kind == "none" else 1.1) * error(seven)
    if kind == "none":
        assert np.array_equal(found.symbols, free.symbols)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3)
        self.c = nn.Linear(8, 4)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))


class Given:
    name = "given"

    def example(self):
        return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))

    def batches(self, split, *, seed, epoch):
        return [(torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1)), None)]

    def inputs(self, batch):
        return batch[0]


def file(step, bits=8):
    torch.manual_seed(0)
    network = Net()
    with torch.no_grad():
        for layer in (network.a, network.b, network.c):
            layer.weight.abs_()
    made = step.apply(Model.of(network), Given(), Context())
    made = Calibrate(samples=64, bits=bits).apply(made, Given(), Context())
    from featherweight.packing import pack

    return made, loads(dumps(pack(made, export(made.module, Given().example()))))


@pytest.fixture(scope="module")
def plain():
    return file(Encode())


@pytest.mark.parametrize("step", [Encode(portable=True), Gptq(format=Int(), portable=True)])
def test_portable_steps(step, plain):
    made, artifact = file(step)
    assert not saturable(qdq_of(artifact).onnx) and not saturable(linear_of(artifact, "dynamic").onnx)
    assert step.apply(made, Given(), Context()).weights["b.weight"] is not None
    again = step.apply(plain[0], Given(), Context())  # has the format already, but may saturate
    assert all(fits(entry, "neighbours") for name, entry in again.weights.items() if name != "a.weight")
    assert step.apply(again, Given(), Context()).hash == again.hash


def test_what_can_saturate_is_named(plain):
    _, artifact = plain
    assert len(saturable(qdq_of(artifact).onnx)) == 3
    assert len(saturable(linear_of(artifact, "dynamic").onnx)) == 1
    assert not saturable(linear_of(artifact, "dynamic").onnx, usable("openvino").operators), (
        "it multiplies floats there"
    )
    assert not saturable(onnx_of(artifact))


def test_sessions_are_exact_or_refused(plain, monkeypatch):
    asked = []

    def compiled(self, content, threads, *, wide=False):
        asked.append(wide)
        return lambda inputs: []

    monkeypatch.setattr(OnnxRuntime, "compile", compiled)
    for narrow in (False, True):
        monkeypatch.setattr(OnnxBackend, "saturates", lambda self, narrow=narrow: narrow)
        opened(plain[1])
        opened(plain[1], integers=False)
        Session.of_onnx(qdq_of(plain[1]).onnx, exact=False)
    assert asked == [False, False, False, True, False, False]
    with pytest.raises(UnsupportedError, match="saturate") as caught:
        opened(plain[1], runtime="openvino")
    assert "portable" in caught.value.hint


def test_layers_in_float_run_where_products_are_widened(monkeypatch):
    """Activations of 4 bits: ONNX Runtime computes convolutions in float, and had lost their zero points."""
    made, artifact = file(Encode(), bits=4)
    monkeypatch.setattr(OnnxBackend, "saturates", lambda self: True)
    assert "quantized activations" in parity.check_parity(made, artifact.graph, Given()).reason


def test_what_runs_is_exact_here(plain):
    """Whatever the processor: right, or refused."""
    made, artifact = plain
    assert "quantized activations" in parity.check_parity(made, artifact.graph, Given()).reason
    pytest.importorskip("openvino")
    try:
        parity.check_parity(made, artifact.graph, Given(), "openvino")
    except UnsupportedError as error:
        assert usable("openvino").saturates() and "portable" in error.hint
    made, artifact = file(Encode(portable=True))
    parity.check_parity(made, artifact.graph, Given(), "openvino")


def test_a_layer_that_is_computed_otherwise_is_refused_by_name(plain, monkeypatch):
    true = parity.handed_out

    def saturating(*args):
        numbers, outputs = true(*args)
        edge = list(numbers)[1]
        return numbers | {edge: np.minimum(numbers[edge], numbers[edge].max() / 2)}, outputs

    monkeypatch.setattr(parity, "handed_out", saturating)
    with pytest.raises(UnsupportedError, match="ONNX Runtime") as caught:
        parity.check_parity(plain[0], plain[1].graph, Given())
    assert "relu" in str(caught.value) and "steps apart" in str(caught.value)


def test_few_numbers_may_differ_by_chance():
    def right(equal, most, numbers):
        return parity.LayerParity("x", equal, most, numbers).right

    assert right(0.9375, 1, 16) and right(0.995, 1, 10**6) and right(1.0, 0, 0)
    assert not right(0.99, 1, 10**6) and not right(0.5, 1, 16) and not right(0.9999, 2, 10**6)


def test_reduce_range_hints_at_portable(capsys, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["featherweight", "export", "x.fw", "--to", "onnx-int8", "--reduce-range"]
    )
    assert run() == 1
    assert "portable" in capsys.readouterr().err


SCRIPT = """
import numpy as np, sys
from featherweight.runtime import usable
from featherweight.runtime.saturation import probe
from onnx import numpy_helper
model = probe()
weight = np.load(sys.argv[1])
for tensor in model.graph.initializer:
    if tensor.name == "weight":
        tensor.CopyFrom(numpy_helper.from_array(weight, "weight"))
    if tensor.name == "wide":
        tensor.CopyFrom(numpy_helper.from_array(np.float32(16 * 127), "wide"))
x = np.load(sys.argv[2])
openvino = usable("openvino")
print(int(openvino.saturates()))
np.save(sys.argv[3], openvino.compile(model.SerializeToString(), 1)({"x": x.astype(np.float32)})[0])
"""


@pytest.mark.parametrize("limit", ["", "AVX2"])
def test_the_oracle_is_the_runtime(limit, tmp_path):
    """Under a limit on instruction sets, and without: the oracle's numbers where the probe says so."""
    pytest.importorskip("openvino")
    generator = np.random.default_rng(0)
    weight = generator.integers(40, 128, (16, 16)).astype(np.int8)
    x = generator.integers(0, 256, (1, 16)).astype(np.uint8)
    np.save(tmp_path / "weight.npy", weight)
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / name) for name in ("weight.npy", "x.npy", "y.npy")]
    source = str(Path(saturation.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": source} | ({"ONEDNN_MAX_CPU_ISA": limit} if limit else {})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths], env=environment, capture_output=True, text=True, check=True
    )
    patches, rows = x[:, :, None], weight[:, :, None]
    sums = saturated(patches, rows, "channels") if int(done.stdout) else exact(patches, rows)
    expected = Affine(float(np.float32(16 * 127)), 0).quantize(sums.astype(np.float32))
    np.testing.assert_array_equal(np.load(paths[2]).astype(np.uint8), expected)
