"""Files for other runtimes from a `.fw` file: they say what it holds, run, and are absent where they would not."""

import json

import numpy as np
import openvino
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from featherweight import Classification, Recipe, compress, load
from featherweight.activations import Affine
from featherweight.deploy import NAMES, make, write
from featherweight.deploy.check import EXACT, NOISE, Parity, check_parities, compare, distance
from featherweight.deploy.executorch import opened_executorch
from featherweight.deploy.litert_file import schema_of_litert
from featherweight.deploy.litert_runtime import opened_litert
from featherweight.deploy.write import widened
from featherweight.engines import onnxruntime_session
from featherweight.errors import UnsupportedError
from featherweight.export import onnx_of, qdq_of
from featherweight.integers import steps_of
from featherweight.packing import unpack
from featherweight.simulation import simulate
from featherweight.techniques import Calibrate, Encode, Fold

pytest.importorskip("ai_edge_litert")


class Small(nn.Module):
    """A residual, a depthwise layer, a clamp, a concatenation and both poolings."""

    def __init__(self, function=nn.Hardswish):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), function(), nn.Conv2d(8, 8, 1))
        self.side, self.pool = nn.Conv2d(8, 4, 1), nn.MaxPool2d(3, 2, 1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.deep(x))
        x = self.pool(torch.cat([x, self.side(x)], 1))
        return self.fc(x.mean((2, 3)))


class Summed(nn.Module):
    """Has an operator that the LiteRT export does not know."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(x).cumsum(1)


def compressed(folder, *given, **options):
    """A file, its images, its path, and its task."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        images, labels = torch.randn(64, 3, 14, 10), torch.randint(0, 5, (64,))
        task = Classification(
            Small(*given).eval(), train=(images, labels), test=(images[:8], labels[:8]), name="small"
        )
    recipe = Recipe([Fold(), Encode(portable=True), Calibrate(samples=32, **options)])
    compress(task, recipe, threads=1).save(folder / "model.fw")
    return load(folder / "model.fw"), images, folder / "model.fw", task


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return compressed(tmp_path_factory.mktemp("small"))[:3]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return compressed(tmp_path_factory.mktemp("whole"), nn.ReLU, outputs=True)


def test_a_network_whose_outputs_are_integers_is_the_same_everywhere(whole, tmp_path):
    artifact, images, _, task = whole
    grid = artifact.activations["linear"]
    x = {"x": images.numpy()}
    with torch.no_grad():
        expected = grid.quantize(simulate(unpack(artifact, task), images[:2])(images).numpy())
    (ours,) = onnxruntime_session(qdq_of(artifact).onnx.SerializeToString(), 1).run(None, x)
    found = {"ONNX": ours, "OpenVINO": make(artifact, "openvino-int8").run([images.numpy()])[0]}
    for to in ("litert-int8", "litert-integer"):
        written = make(artifact, to)
        assert written.floats == {}
        (found[to],) = written.run([images.permute(0, 2, 3, 1).numpy()])
    for name, scores in found.items():
        np.testing.assert_array_equal(scores, grid.dequantize(grid.quantize(scores)), err_msg=name)
        apart = np.abs(grid.quantize(scores).astype(int) - expected)
        assert (apart == 0).mean() > (0.7 if name == "OpenVINO" else 0.95), name
        assert apart.max() <= (3 if name == "OpenVINO" else 1), name


def test_a_file_of_integers_alone_takes_and_gives_integers(whole, tmp_path):
    artifact, images, *_ = whole
    content = write(artifact, "litert-integer", tmp_path / "m").paths[0].read_bytes()
    schema = schema_of_litert()
    graph = schema.ModelT.InitFromPackedBuf(content).subgraphs[0]
    kinds = {schema.TensorType.INT8, schema.TensorType.INT32}
    assert {tensor.type for tensor in graph.tensors} == kinds
    read, written = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    assert read.type == written.type == schema.TensorType.INT8
    given = artifact.activations["x"]
    assert read.quantization.scale[0] == np.float32(given.scale)
    assert read.quantization.zeroPoint[0] == given.zero_point - 128
    integers = given.quantize(images.permute(0, 2, 3, 1).numpy()).astype(np.int16) - 128
    (got,) = opened_litert(content)([integers.astype(np.int8)])
    (numbers,) = make(artifact, "litert-integer").run([images.permute(0, 2, 3, 1).numpy()])
    assert got.dtype == np.int8
    grid = artifact.activations["linear"]
    assert written.quantization.scale[0] == np.float32(grid.scale)
    assert written.quantization.zeroPoint[0] == grid.zero_point - 128
    np.testing.assert_array_equal(grid.dequantize((got.astype(np.int16) + 128).astype(np.uint8)), numbers)


def test_a_program_of_integers_alone_has_no_float_weights(small, whole):
    pytest.importorskip("executorch", reason="the extra executorch is not in dev: some 500 MB")
    part, made_whole = make(small[0], "executorch-int8"), make(whole[0], "executorch-int8")
    assert set(part.floats) == {"fc"} and made_whole.floats == {}
    images = whole[1][:1]
    (ours,) = onnxruntime_session(qdq_of(whole[0]).onnx.SerializeToString(), 1).run(
        None, {"x": images.numpy()}
    )
    (got,) = made_whole.run([images.numpy()])
    assert distance(ours, got) < 0.02


def test_what_computes_in_float_has_no_file_of_integers_alone(small, tmp_path):
    with pytest.raises(UnsupportedError, match=r"HARD_SWISH .*: not all of it .* got fc: .*") as found:
        write(small[0], "litert-integer", tmp_path / "m")
    assert "outputs = true" in found.value.hint
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("to", [name for name in NAMES if name != "litert-integer"])
def test_a_file_is_written_that_computes_the_same(small, tmp_path, to):
    artifact, images, _ = small
    if to.startswith("executorch"):
        pytest.importorskip("executorch", reason="the extra executorch is not in dev: some 500 MB")
        images = images[:1]
    written = write(artifact, to, tmp_path / "made.of")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written.paths)
    assert written.nbytes == sum(path.stat().st_size for path in written.paths)
    assert all(path.name.startswith("made.of.") for path in written.paths)
    model = qdq_of(artifact).onnx if "-" in to else onnx_of(artifact)
    (wanted,) = onnxruntime_session(model.SerializeToString(), 1).run(None, {"x": images.numpy()})
    if to.startswith("openvino"):
        compiled = openvino.Core().compile_model(
            tmp_path / "made.of.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        assert compiled.inputs[0].any_name == "x"
        got = compiled(images.numpy())[0]
    elif to.startswith("executorch"):
        (got,) = opened_executorch(written.paths[0].read_bytes())([images.numpy()])
    else:
        (got,) = opened_litert(written.paths[0].read_bytes())([images.permute(0, 2, 3, 1).numpy()])
    bound = {"": 1e-4, "int8": 0.02, "16x8": 0.05}[to.partition("-")[2]]
    assert distance(wanted, got) < bound
    inside = to.startswith(("litert-", "executorch-"))
    assert set(written.floats) == ({"fc"} if inside else set())


def test_sizes_are_fixed_in_openvino_where_they_are_given(small, tmp_path):
    (path, _) = write(small[0], "openvino-int8", tmp_path / "free").paths
    assert openvino.Core().read_model(path).inputs[0].partial_shape[0].is_dynamic
    (axis,) = {
        n.dim_param for value in onnx_of(small[0]).graph.input for n in value.type.tensor_type.shape.dim
    } - {""}
    (path, _) = write(small[0], "openvino-int8", tmp_path / "fixed", sizes={axis: 3}).paths
    assert list(openvino.Core().read_model(path).inputs[0].shape) == [3, 3, 14, 10]


def test_what_openvino_computes_otherwise_where_sizes_are_free_is_refused(small, tmp_path, monkeypatch):
    """Its 2026.4 does so with the patches of some vision transformers; here the bound is what cannot be met."""
    monkeypatch.setattr("featherweight.deploy.openvino.FREE", -1.0)
    with pytest.raises(UnsupportedError, match="where sizes are free") as found:
        write(small[0], "openvino-int8", tmp_path / "m")
    assert found.value.hint.startswith("--size ") and not [*tmp_path.iterdir()]


def test_weights_scales_and_biases_are_those_of_the_file(small, tmp_path):
    artifact, _, _ = small
    content = write(artifact, "litert-int8", tmp_path / "m").paths[0].read_bytes()
    schema = schema_of_litert()
    read = schema.ModelT.InitFromPackedBuf(content)
    held = []
    for tensor in read.subgraphs[0].tensors:
        if tensor.buffer and tensor.type == schema.TensorType.INT8:
            integers = np.asarray(read.buffers[tensor.buffer].data, np.uint8).view(np.int8)
            held.append((integers.reshape(tensor.shape), np.float32(tensor.quantization.scale)))
    for name in ("stem.0.weight", "deep.0.weight", "deep.2.weight", "side.weight", "fc.weight"):
        encoded = artifact.encoded(name)
        integers = encoded.view.tensor(steps_of(encoded).astype(np.int8))
        moved = (
            integers
            if integers.ndim == 2
            else integers.transpose((1, 2, 3, 0) if name == "deep.0.weight" else (0, 2, 3, 1))
        )
        same = [s for q, s in held if np.array_equal(q, moved)]
        assert len(same) == 1, name
        assert np.array_equal(same[0], encoded.parts["scale"].reshape(-1)), name


@given(st.floats(-50, 0), st.floats(0.01, 50))
def test_sixteen_bits_hold_the_range_of_eight(low, high):
    narrow = Affine.of(low, high)
    wide = widened(narrow)
    assert (wide.bits, wide.signed, wide.zero_point) == (16, True, 0)
    assert wide.range[0] <= narrow.range[0] * 0.9999
    assert wide.range[1] >= narrow.range[1] * 0.9999
    assert widened(wide) == wide


def test_a_file_that_was_not_calibrated_has_no_integers(tmp_path):
    x, y = torch.randn(40, 6), torch.randint(0, 2, (40,))
    task = Classification(nn.Linear(6, 2), train=(x, y), test=(x, y))
    artifact = compress(task, Recipe([Encode()]), threads=1).artifact
    with pytest.raises(UnsupportedError, match="no quantizers of activations"):
        write(artifact, "litert-int8", tmp_path / "m")
    assert not [*tmp_path.iterdir()]


def test_what_a_runtime_cannot_say_leaves_no_file(tmp_path):
    x, y = torch.randn(40, 6), torch.randint(0, 2, (40,))
    task = Classification(Summed(), train=(x, y), test=(x, y))
    artifact = compress(task, Recipe([Encode()]), threads=1).artifact
    with pytest.raises(UnsupportedError, match="not an operator that the LiteRT export knows"):
        write(artifact, "litert", tmp_path / "m")
    assert not [*tmp_path.iterdir()]


def test_integers_of_few_bits_are_refused_by_name(tmp_path):
    x, y = torch.randn(40, 6), torch.randint(0, 2, (40,))
    task = Classification(nn.Linear(6, 2), train=(x, y), test=(x, y))
    artifact = compress(task, Recipe([Encode(), Calibrate(bits=4)]), threads=1).artifact
    with pytest.raises(UnsupportedError, match="no integers of 8 bits"):
        write(artifact, "litert-int8", tmp_path / "m")


def test_another_network_is_noticed():
    right = np.random.default_rng(0).integers(-128, 128, 1000).astype(np.int8)
    one, other = right.copy(), np.roll(right, 1)
    one[::50] = np.clip(one[::50], -127, 127) + 1
    assert Parity.of("x", right, one).right
    assert not Parity.of("x", right, other).right
    with pytest.raises(UnsupportedError, match="computes 1 of 1 activations otherwise"):
        check_parities("LiteRT", [Parity.of("x", right, other)])
    floats = np.random.default_rng(0).standard_normal(50).astype(np.float32)
    assert compare("It", ["y"], [floats], [floats * 1.001], bound=NOISE) < 0.0011
    for wrong in (floats * 1.001, floats * np.nan, -floats):
        with pytest.raises(UnsupportedError, match="so nothing was written"):
            compare("It", ["y"], [floats], [wrong], bound=EXACT)
    with pytest.raises(UnsupportedError, match="another shape"):
        compare("It", ["y"], [floats], [floats[None]], bound=NOISE)
    assert distance(np.float32([np.nan, 1]), np.float32([np.nan, 1])) == 0


def test_the_command_says_what_it_wrote_and_how_near_it_is(small, tmp_path, capsys, monkeypatch):
    from featherweight.cli import main

    path = tmp_path / "model.fw"
    path.write_bytes(small[2].read_bytes())
    for more in ([], ["--json"]):
        monkeypatch.setattr("sys.argv", ["featherweight", "export", str(path), "--to", "litert-int8", *more])
        with pytest.raises(SystemExit, match="0"):
            main()
        said = capsys.readouterr().out
        assert "fc" in said
        assert "activations in integers" in said
    assert json.loads(said)["files"] == [str(tmp_path / "model.int8.tflite")]
