"""Headers in C: compiled and run, they compute what a session computes, bit for bit; and what is refused."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight.activations import Affine
from featherweight.artifact import dumps, load, loads
from featherweight.capture.execution import Execution
from featherweight.errors import UnsupportedError
from featherweight.export.c import c_of
from featherweight.export.c.program import Program, Step, Value, arena
from featherweight.export.c.sums import averages, pairs, translation
from featherweight.export.onnx import export
from featherweight.formats import Basis, Clustered, Float, Int, Log2
from featherweight.formats.coders import Bitmask, Cabac, Fixed, Gaps, Huffman, Rans, Zstd
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.simulation import execution, fake_quantize, simulate
from featherweight.task.tasks import Agreement
from featherweight.techniques import Calibrate, Context, Encode, Fold, Sparsify
from featherweight.zoo.baselines import located
from featherweight.zoo.lenet import LeNet5, LeNet300

GCC = shutil.which("gcc")
needs_gcc = pytest.mark.skipif(GCC is None, reason="needs gcc")
STRICT = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"]
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MANY = 120


@pytest.fixture(scope="module", autouse=True)
def registry_read_once():
    """torch reads the source of 500 translations at every export: half its time, and always the same."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        yield


class DepthwiseSeparable(nn.Sequential):
    """Spots keywords in 49 frames of 10 coefficients: Zhang et al., Hello Edge, 2017, table 3 (small)."""

    def __init__(self):
        def block(*given, **options):
            convolution = nn.Conv2d(*given, bias=False, **options)
            return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]

        body = [block(64, 64, 3, padding=1, groups=64) + block(64, 64, 1) for _ in range(4)]
        stem = block(1, 64, (10, 4), stride=(2, 2), padding=(5, 1))
        super().__init__(*stem, *chain(*body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


class Residual(nn.Module):
    """Three residual blocks for digits of 8 x 8 pixels, two of them with a convolution beside them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        sizes = [(8, 8, 1), (8, 16, 2), (16, 24, 2)]
        self.first = nn.ModuleList([nn.Conv2d(i, o, 3, s, 1) for i, o, s in sizes])
        self.second = nn.ModuleList([nn.Conv2d(o, o, 3, 1, 1) for _, o, _ in sizes])
        self.beside = nn.ModuleList([nn.Conv2d(i, o, 1, s) if s > 1 else nn.Identity() for i, o, s in sizes])
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for first, second, beside in zip(self.first, self.second, self.beside, strict=True):
            x = F.relu(second(F.relu(first(x))) + beside(x))
        return self.fc(x.mean((2, 3)))


class Everything(nn.Module):
    """Padding apart, groups, dilation, clamps, sums, parts, concatenations of several steps, pools, a softmax."""

    def __init__(self):
        super().__init__()
        self.pad = nn.ZeroPad2d((0, 1, 1, 0))
        self.stem = nn.Conv2d(3, 8, (3, 2), stride=(2, 1))
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)
        self.wide = nn.Conv2d(8, 8, 1)
        self.loud = nn.Conv2d(8, 8, 1)
        nn.init.uniform_(self.loud.weight, -3, 3)
        self.last = nn.Conv2d(32, 5, (1, 2))

    def forward(self, x):
        x = F.relu6(self.stem(self.pad(x)))
        x = F.hardtanh(self.grouped(x), -0.3, 0.4) + x
        x = x + self.wide(x)
        some = F.pad(x[:, 1:7, ::2, -8::2], (0, 0, 0, 0, 1, 1))
        x = torch.cat([F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2), some, self.loud(some)], 1)
        return F.relu(self.last(x)).flatten(1).softmax(1)


class Signal(nn.Sequential):
    """One axis of places."""

    def __init__(self):
        pool = nn.MaxPool1d(3, 2, 1, ceil_mode=True)
        super().__init__(
            nn.Conv1d(2, 6, 5, 2, 2), nn.ReLU(), pool, nn.Conv1d(6, 4, 3, bias=False), nn.Flatten()
        )


def lenet5():
    return load(located("lenet5-mnist")).into(LeNet5())


def images(*shape, count=MANY):
    """Smooth spots, as strokes are, of mean 0 and variance 1."""
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1))
    if len(shape) == 3:
        x = F.interpolate(x[..., ::4, ::4], shape[1:], mode="bilinear").pow(3)
    return (x - x.mean()) / x.std()


SPARSE = Gaps(values=Huffman(), gaps=Rans())
CASES = {
    "lenet5, int 8, rans": (lenet5, (1, 28, 28), Int(bits=8), Rans()),
    "lenet5, clustered, huffman": (lenet5, (1, 28, 28), Clustered(bits=4), Huffman()),
    "lenet300, int 4, sparse": (LeNet300, (1, 28, 28), Int(bits=4, per="tensor"), SPARSE),
    "keywords, int 8, fixed": (DepthwiseSeparable, (1, 49, 10), Int(bits=8), Fixed()),
    "keywords, clustered, cabac": (DepthwiseSeparable, (1, 49, 10), Clustered(bits=5), Cabac()),
    "residual, int 6, bitmask": (Residual, (1, 8, 8), Int(bits=6), Bitmask(values=Cabac(), mask=Cabac())),
    "everything, int 3, cabac": (Everything, (3, 9, 8), Int(bits=3), Cabac()),
    "keywords, signs as int, rans": (DepthwiseSeparable, (1, 49, 10), Basis(bits=1), Rans()),
    "signal, int 8, huffman": (Signal, (2, 33), Int(bits=8), Huffman()),
}


@cache
def made(name, activations=8, outputs=False):
    """A calibrated model, its example, and its file."""
    build, shape, form, coder = CASES[name]
    torch.manual_seed(0)
    network, x = build(), images(*shape)
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        with torch.no_grad():
            network.train()(x)
    task, context = Agreement(network.eval(), train=x, test=x), Context(seed=0)
    model = Fold().apply(Model.of(network), task, context)
    if "sparse" in name:
        model = Sparsify(sparsity=0.8).apply(model, task, context)
    model = Encode(where="weights", format=form, coder=coder).apply(model, task, context)
    model = Calibrate(samples=32, bits=activations, outputs=outputs).apply(model, task, context)
    return model, x, loads(dumps(pack(model, export(model.module, x[:2]))))


def compiled(source, folder, *flags):
    for file, text in source.files.items():
        (folder / file).write_text(text)
    subprocess.run([GCC, *STRICT, *flags, "main.c", "-o", "model"], cwd=folder, check=True)
    return folder / "model"


def ran(program, inputs, *flags):
    told = subprocess.run([program, *flags], input=inputs, check=True, capture_output=True, text=False).stdout
    rows = np.array([line.split() for line in told.decode().splitlines()], np.float64)
    return rows[:, 0].astype(int), rows[:, 1:].astype(np.float32)


def exact(model, x):
    """The simulation in float64, and how near each image comes to where rounding turns, in steps.

    Sums are exact but for what no output shows; inputs are rounded in float32.
    """
    first, nearest = next(iter(model.program(x[:2]).example)), torch.ones(len(x), dtype=torch.float64)

    def visit(edge, value):
        quantizer = model.activations.get(edge)
        if quantizer is None:
            return value
        if edge == first:
            return fake_quantize(value.float(), quantizer).double()
        least, most = (end - quantizer.zero_point for end in quantizer.grid)
        steps = value / quantizer.scale
        inside = (steps > least - 0.6) & (steps < most + 0.6)
        apart = torch.where(inside, (steps - steps.floor() - 0.5).abs(), 1.0).flatten(1).amin(1)
        torch.minimum(nearest, apart, out=nearest)
        return steps.round().clamp(least, most) * quantizer.scale

    program = model.program(x[:2])
    own = execution(model, program, visit)._arguments
    doubled = {edge: {k: t.double() for k, t in given.items()} for edge, given in own.items()}
    tensors = {name: tensor.double() for name, tensor in model.tensors.items() if tensor.is_floating_point()}
    run = Execution(program, visit, arguments=doubled)
    return run({first: x.double()}, tensors)[0].detach().numpy(), nearest.numpy()


@needs_gcc
@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_a_session_computes(name, tmp_path):
    model, x, artifact = made(name)
    source = c_of(artifact)
    flags = ["-O2"] if "lenet" in name else SANITIZED  # which makes half a million weights slow
    classes, scores = ran(compiled(source, tmp_path, *flags), x.numpy().astype("<f4").tobytes())
    ours = np.asarray(artifact.session().run(x.numpy())).reshape(MANY, -1)
    simulated = simulate(model, x[:2])(x).numpy().reshape(MANY, -1)
    np.testing.assert_array_equal(classes, scores.argmax(1))
    assert source.kind == "network"
    if name.startswith("everything"):  # ONNX Runtime averages in float32, and is a step beside it at times
        assert source.notes == ("scores are what Softmax reads: their order is the same",)
        scores = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    elif "int" in name:
        np.testing.assert_array_equal(scores, ours)
    if "int" not in name or name.startswith("everything"):
        expected, nearest = exact(model, x)
        wrong = np.abs(scores - expected.reshape(MANY, -1)).max(1) > 1e-6 * np.abs(expected).max()
        turning = nearest < 1e-6  # of a step: a sum of float32 may fall on the other side
        assert not (wrong & ~turning).any()
        assert turning.mean() < 0.2
    assert np.mean(np.abs(scores - simulated) <= 1e-5 * np.abs(simulated).max()) > 0.9
    assert np.mean(classes == simulated.argmax(1)) > 0.99


@needs_gcc
@pytest.mark.parametrize(
    "name", ["keywords, int 8, fixed", "residual, int 6, bitmask", "signal, int 8, huffman"]
)
def test_the_code_is_about_as_large_as_is_said(name, tmp_path):
    source, text = c_of(made(name)[2]), "int run(const uint8_t *x, float *y, void *z)"
    (tmp_path / "model.h").write_text(source.files["model.h"])
    (tmp_path / "one.c").write_text(f'#include "model.h"\n{text};\n{text} {{ return fw_run(x, y, z); }}\n')
    subprocess.run([GCC, "-std=c99", "-Os", "-c", "one.c"], cwd=tmp_path, check=True)
    told = subprocess.run(
        ["size", "-A", "one.o"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    found = sum(int(line.split()[1]) for line in told.splitlines() if line.startswith(".text"))
    assert 0.7 * source.flash["code"] < found < 2.5 * source.flash["code"]


@needs_gcc
def test_scores_in_integers_are_those_of_a_session(tmp_path):
    model, x, artifact = made("residual, int 6, bitmask", outputs=True)
    _, scores = ran(compiled(c_of(artifact), tmp_path), x.numpy().astype("<f4").tobytes())
    np.testing.assert_array_equal(scores, artifact.session().run(x.numpy()))
    grid = artifact.activations["linear"]
    np.testing.assert_array_equal(scores, grid.dequantize(grid.quantize(scores)))
    assert np.mean(scores == simulate(model, x[:2])(x).numpy()) > 0.99


@needs_gcc
def test_fewer_bits_of_activations_and_bytes_as_inputs(tmp_path):
    _, x, artifact = made("residual, int 6, bitmask", 6)
    program, quantizer = compiled(c_of(artifact), tmp_path), artifact.activations["x"]
    assert quantizer.bits == 6
    found = ran(program, x.numpy().astype("<f4").tobytes())
    np.testing.assert_array_equal(found[1], artifact.session().run(x.numpy()))
    again = ran(program, quantizer.quantize(x.numpy()).tobytes(), "--integers")
    np.testing.assert_array_equal(again[1], found[1])


@needs_gcc
def test_odd_inputs_and_those_that_are_cut_short(tmp_path):
    _, _, artifact = made("residual, int 6, bitmask")
    program, quantizer = compiled(c_of(artifact), tmp_path, *SANITIZED), artifact.activations["x"]
    edges = (np.arange(-300, 300) + 0.5) * np.float32(quantizer.scale)
    odd = np.float32([np.inf, -np.inf, np.nan, 3e36, -3e36, 1e-45, -0.0, 0.0])
    inputs = np.resize(np.concatenate([edges.astype(np.float32), odd]), (19, 64))
    _, scores = ran(program, inputs.astype("<f4").tobytes())
    again = ran(program, quantizer.quantize(inputs).tobytes(), "--integers")[1]
    np.testing.assert_array_equal(scores, again)
    cut = subprocess.run([program], input=inputs.astype("<f4").tobytes()[:-1], capture_output=True)
    assert cut.returncode == 1
    assert b"cut short" in cut.stderr
    assert len(cut.stdout.splitlines()) == 18


@needs_gcc
def test_requantizing_is_float32_multiplication_bit_for_bit(tmp_path):
    templates = Path(sys.modules["featherweight.export.c"].__file__).with_name("templates")
    (tmp_path / "main.c").write_text("""
#include <stdio.h>
#include "base.h"
#include "requantize.h"
int main(void)
{
    int32_t sum;
    uint32_t scale;
    while (fread(&sum, 4, 1, stdin) && fread(&scale, 4, 1, stdin)) {
        int32_t found = fw_requantize(sum, scale);
        fwrite(&found, 4, 1, stdout);
    }
    return 0;
}
""")
    subprocess.run(
        [GCC, *STRICT, *SANITIZED, "-I", templates, "main.c", "-o", "main"], cwd=tmp_path, check=True
    )
    draw = np.random.default_rng(0)
    sums = (draw.integers(0, 2, 400_000) * 2 - 1) * np.exp2(draw.uniform(0, 31, 400_000))
    scales = np.exp2(draw.uniform(-40, 4, sums.size)).astype(np.float32)
    sums[:9] = -(2**31), 2**31 - 1, 0, 1, -1, 2**24 + 1, 2**24 + 3, 3, 5
    scales[3:9] = 0.5, 0.5, 1, 1, 0.5, 0.5
    near = np.float32(draw.integers(0, 256, 100_000) + 0.5) / sums[-100_000:].astype(np.float32)
    scales[-100_000:] = np.maximum(np.abs(near), np.float32(1e-12))  # products next to halves
    sums = sums.clip(-(2**31), 2**31 - 1).astype(np.int32)
    asked = np.stack([sums, scales.view(np.int32)], 1).astype(np.int32)
    told = subprocess.run([tmp_path / "main"], input=asked.tobytes(), capture_output=True, check=True).stdout
    expected = np.rint(sums.astype(np.float32) * scales).clip(-(2.0**30), 2.0**30)
    np.testing.assert_array_equal(np.frombuffer(told, np.int32), expected.astype(np.int64))


@needs_gcc
def test_the_command_writes_a_folder_that_make_builds(tmp_path):
    _, x, artifact = made("residual, int 6, bitmask")
    model, *_ = made("residual, int 6, bitmask")
    (tmp_path / "model.fw").write_bytes(dumps(pack(model, export(model.module, x[:2]))))
    command = [sys.executable, "-m", "featherweight", "export", tmp_path / "model.fw", "--to", "c"]
    said = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout
    told = json.loads(said)
    assert told["kind"] == "network"
    assert told["folder"] == str(tmp_path / "model-c")
    assert told["files"] == ["model.h", "main.c", "Makefile"]
    assert told["flash"]["payload"] == artifact.index().nbytes["payload"]
    assert told["ram"]["input"] == 64
    subprocess.run(["make", "-s", "-C", told["folder"]], check=True)
    _, scores = ran(Path(told["folder"], "model"), x[:20].numpy().astype("<f4").tobytes())
    np.testing.assert_array_equal(scores, artifact.session().run(x[:20].numpy()))
    plain = subprocess.run([*command, "-o", tmp_path / "there"], check=True, capture_output=True, text=True)
    assert "a network that runs" in plain.stdout
    assert (tmp_path / "there" / "model.h").read_text() == c_of(artifact).files["model.h"]


@needs_gcc
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_it_is_c_plus_plus_too(tmp_path):
    source = c_of(made("everything, int 3, cabac")[2])
    for file, text in source.files.items():
        (tmp_path / file).write_text(text)
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-fsyntax-only", "-x", "c++"]
    subprocess.run(["g++", *flags, "main.c"], cwd=tmp_path, check=True)


FORMATS = {
    "narrow": Int(bits=5), "whole": Int(bits=12, per="tensor"), "affine": Int(bits=8, scheme="affine", per=7),
    "groups": Int(bits=3, per=4), "clustered": Clustered(bits=6), "half_": Float(), "plain": Float(kind="float32"),
    "brain": Float(kind="bfloat16"), "halved": Int(bits=4, per=5, scheme="affine", scale_type="float16"),
    "signs": Basis(bits=1),
}  # fmt: skip


def weights_of(formats, coder, **buffers):
    """A file of a tensor for each format, and one of whole numbers; of shapes that no group divides."""
    task = Agreement(nn.Linear(2, 2), train=torch.zeros(2, 2), test=torch.zeros(2, 2))
    torch.manual_seed(3)
    network = nn.Module()
    for name in formats:
        network.register_parameter(name, nn.Parameter(torch.randn(5, 3, 6) * 0.1))
    for name, buffer in buffers.items():
        network.register_buffer(name, buffer)
    network.register_buffer("count", torch.tensor([-(2**63), 7]))
    model = Model.of(network)
    for name, form in formats.items():
        with torch.no_grad():
            getattr(network, name)[getattr(network, name).abs() < 0.05] = 0.0
        model = Encode(where=name, format=form, coder=coder(name)).apply(model, task, Context())
    return loads(dumps(pack(model)))


@needs_gcc
def test_without_quantizers_every_tensor_is_decoded(tmp_path):
    coders = {"plain": Fixed(), "narrow": Bitmask(mask=Rans()), "whole": Huffman(), "groups": Cabac()}
    artifact = weights_of(FORMATS, lambda name: coders.get(name, Rans()))
    source = c_of(artifact)
    assert source.kind == "weights"
    assert list(source.files) == ["model.h"]
    calls = [
        f"    whole &= fw_decode_{name}(out, work); fwrite(out, 4, 90, stdout);"
        for name in FORMATS
        if name != "plain"
    ]
    (tmp_path / "model.h").write_text(source.files["model.h"])
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include \"model.h\"\n"
        "int main(void)\n{\n    static float out[90];\n    static uint64_t work[FW_WORK / 8];\n    int i, whole = 1;\n"
        + "\n".join(calls)
        + "\n    for (i = 0; i < 90; i++) { out[i] = fw_number_plain((uint32_t)i); }\n    fwrite(out, 4, 90, stdout);\n"
        "    return !(whole && fw_numbers_count[0] == INT64_MIN && fw_numbers_count[1] == 7);\n}\n"
    )  # fmt: skip
    subprocess.run(
        [GCC, *STRICT, "-Wno-misleading-indentation", *SANITIZED, "main.c", "-o", "main"],
        cwd=tmp_path,
        check=True,
    )
    told = subprocess.run([tmp_path / "main"], check=True, capture_output=True).stdout
    found = np.frombuffer(told, np.float32).reshape(-1, 5, 3, 6)
    names = [name for name in FORMATS if name != "plain"] + ["plain"]
    for name, values in zip(names, found, strict=True):
        np.testing.assert_array_equal(values, artifact.weight(name), err_msg=name)


def test_formats_and_coders_without_a_decoder_are_named_at_once():
    with pytest.raises(
        UnsupportedError, match=r"tensors whose coder .* a \(coder zstd\), b \(coder zstd\)\nhint: .*rans"
    ):
        c_of(weights_of({"a": Int(bits=4), "b": Clustered()}, lambda _: Zstd()))
    with pytest.raises(UnsupportedError, match=r"tensors whose format .* a \(log2 4\)\nhint"):
        c_of(weights_of({"a": Log2(), "b": Clustered()}, lambda _: Rans()))
    with pytest.raises(UnsupportedError, match=r"tensors whose format .* a \(basis 2\)\nhint"):
        c_of(weights_of({"a": Basis(bits=2), "b": Clustered()}, lambda _: Rans()))
    with pytest.raises(UnsupportedError, match=r"tensors whose format .* c \(raw f64\)\nhint"):
        c_of(weights_of({"b": Clustered()}, lambda _: Rans(), c=torch.zeros(2, dtype=torch.float64)))


def test_operators_without_a_kernel_are_named_at_once():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)

        def forward(self, x):
            return self.c(torch.tanh(self.b(F.silu(self.a(x)))).mean((2, 3)))

    x = images(1, 8, 8)
    task, context = Agreement(Odd().eval(), train=x, test=x), Context()
    model = Calibrate(samples=32).apply(
        Encode(format=Int(bits=8)).apply(Model.of(task.model()), task, context), task, context
    )
    artifact = loads(dumps(pack(model, export(model.module, x[:2]))))
    with pytest.raises(UnsupportedError) as refusal:
        c_of(artifact)
    text = str(refusal.value)
    for kind in ("Sigmoid", "Mul", "Tanh"):
        assert re.search(rf"{kind} \w+ \(not among the kernels\)", text), text
    assert "hint: " in text


class Ceiled(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 1), nn.MaxPool2d(1, 2, ceil_mode=True), nn.Conv2d(2, 2, 1))


class First(nn.Sequential):
    def __init__(self):
        super().__init__(nn.ReLU(), nn.Conv2d(1, 2, 1))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Ceiled, r"MaxPool \w+ \(a window that starts behind"),
        (First, "x: the input has no quantizer .* Relu reads it"),
    ],
)
def test_what_kernels_would_do_otherwise_is_refused(network, reason, monkeypatch):
    monkeypatch.setitem(CASES, "this", (network, (1, 8, 8), Int(bits=8), Rans()))
    artifact = made.__wrapped__("this")[2]
    with pytest.raises(UnsupportedError, match=reason.replace("x: ", "")):
        c_of(artifact)


def test_bytes_of_one_quantizer_become_those_of_another():
    for signed in (False, True):
        x, y = Affine.of(-1.0, 3.0, signed=signed), Affine.of(-0.4, 1.0, bits=6, signed=not signed)
        table = translation(x, y, -0.2, 0.9)
        for byte in range(256):
            number = x.dequantize(np.array([byte - 128 * signed])).clip(np.float32(-0.2), np.float32(0.9))
            assert table[byte] == int(y.quantize(number)[0]) + 128 * (not signed)


@pytest.mark.parametrize("count", [2, 4, 9, 49, 125])
def test_averages_round_as_simulated(count):
    x, y = Affine.of(-1.3, 4.1), Affine.of(-0.2, 2.9)
    assert averages(x, y, count)[2] == 0
    assert averages(x, x, count)[2] == 0 or count == 9


def test_sums_of_two_round_as_simulated():
    for ends in ((-1.3, 4.1), (0.0, 6.0), (-3.0, 1.0)):
        a, b, y = Affine.of(*ends), Affine.of(-2.0, 1.7), Affine.of(-2.5, 5.0)
        assert pairs(a, b, y).apart <= 2
        assert pairs(a, a, y).apart == 0
        assert pairs(y, y, y) == type(pairs(y, y, y))(1 << 29, 1 << 29, 29, 0)


def test_the_arena_holds_what_lives_together_and_no_more():
    """Against a count of what lives at each step, and of every pair that lives together."""
    draw = np.random.default_rng(0)
    for _ in range(50):
        length = int(draw.integers(2, 12))
        sizes = [0, *(int(n) for n in draw.integers(1, 200, length))]
        values = [Value(buffer, (size,), Affine.of(0, 1)) for buffer, size in enumerate(sizes)]
        steps = [
            Step("add", "", (values[n], values[int(draw.integers(0, n + 1))]), values[n + 1])
            for n in range(length)
        ]
        scratch = {id(step): int(draw.integers(0, 100)) for step in steps}
        program = Program(tuple(steps), values[0], values[-1], tuple(sizes), ())
        offsets, own, whole = arena(program, lambda step, of=scratch: of[id(step)])
        most = 0
        for time, step in enumerate(steps):
            read = {v.buffer for later in steps[time:] for v in later.inputs}
            written = {s.output.buffer for s in steps[: time + 1]}
            alive = (read & written) | {step.output.buffer}
            held = [(offsets[b], sizes[b]) for b in alive if sizes[b]] + [(own[time], scratch[id(step)])]
            held = sorted((at, size) for at, size in held if size)
            assert all(at % 8 == 0 for at, _ in held)
            assert all(at + size <= after for (at, size), (after, _) in pairwise(held))
            assert all(at + size <= whole for at, size in held)
            most = max(most, sum(-(-size // 8) * 8 for _, size in held))
        assert most <= whole <= 1.5 * most
