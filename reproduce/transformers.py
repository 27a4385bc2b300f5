"""A sentence encoder and a language model in 8 and 4 bits, beside ONNX Runtime's own quantizers."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight import Agreement, Recipe
from featherweight.artifact import Artifact, dumps, loads
from featherweight.events import Events
from featherweight.export import linear_of, onnx_of, qdq_of, serialized
from featherweight.export.onnx import export
from featherweight.formats import Int
from featherweight.formats.coders import Rans
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.recipe.recipe import read_recipe
from featherweight.recipe.runner import run
from featherweight.runtime import Session
from featherweight.runtime.timing import interleaved
from featherweight.techniques import Encode, Gptq, Smooth
from featherweight.techniques.base import Step
from reproduce.figure import new_figure, svg
from reproduce.real.rivals import attempted, rivals
from reproduce.real.transformers import (
    minilm,
    other_sentences,
    running_text,
    sentences,
    smollm2,
    words_of,
)
from reproduce.results import Check, Measured, Plot, Sheet

Array = NDArray[Any]
Inputs = Mapping[str, Tensor]
Found = tuple[list[Sheet], list[Check]]
Ways = dict[str, tuple[list[Step], str]]  # steps, and the kind of ONNX file that is written of what they make

ABOUT = "MiniLM and SmolLM2, built by Hugging Face's classes, in 8 and 4 bits; ONNX Runtime's own in the same run."
REMARKS = [
    "MiniLM: mean cosine of sentence embeddings to the float network's, and rank correlation of all similarities.",
    "SmolLM2: perplexity of running text; its float network is that of a GGUF file of 4 bits.",
    "Calibration has seen none of the sentences and none of the text.",
    "Milliseconds: a call, all files in turns. Ratios are to be read where the machine is not quiet.",
    "ONNX Runtime's quantizers are given the float graph prepared by its own quant_pre_process.",
    "OpenVINO multiplies in float what is quantized dynamically.",
]
OTHERS = 128  # blocks of other texts that calibrate SmolLM2
DAMPING = 0.05  # of SmolLM2: chosen of .01, .05 and .2 by the perplexity of blocks 58 to 74, calibrated with the others
SEEN = 0.95  # least cosine of the plot
EIGHT, FOUR = Int(bits=8, scale_by="mse"), Int(bits=4, per=32, scale_by="mse")
SMOOTHED, POINTS = "dynamic, smooth", "nbits, 4 bits, zero points"
DYNAMIC = "ONNX Runtime: quantize_dynamic"
AFFINE = Int(bits=4, per=32, scale_by="mse", scheme="affine")


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure both networks; quick: the encoder alone, in dynamic integers, on few sentences."""
    counts = (16, 4, 20) if quick else (256, 32, 200)
    sheets, checks = encoder(counts, quick, threads, events)
    if not quick:
        more, further = language(threads, events)
        sheets, checks = [*sheets, *more], [*checks, *further]
    named = [Sheet(f"{sheet.title} ({processor()})", sheet.head, sheet.rows) for sheet in sheets]
    return Measured([], checks, named, [picture(sheets[0])])


def picture(sheet: Sheet) -> Plot:
    """Return bytes against the cosine of sentence embeddings, both axes cut where the best files are."""
    figure = new_figure(8.0, 4.5)
    (ax,) = figure.subplots(1, 1, squeeze=False).flat
    rows = [row for row in sheet.rows if row[0] != "float" and float(str(row[3])) > SEEN]
    for name, _, size, cosine, *_ in rows:
        theirs = str(name).startswith("ONNX Runtime")
        ax.plot(size, cosine, "s" if theirs else "o", color="C1" if theirs else "C0")
        short = str(name).removeprefix("ONNX Runtime: ")
        place, side = ((5, 3), "left") if not theirs else ((-5, -9), "right")
        ax.annotate(short, (size, cosine), xytext=place, textcoords="offset points", ha=side, fontsize=7)
    ax.set_xlabel("MB, ONNX file")
    ax.set_ylabel(f"mean cosine to float (from {SEEN})")
    return Plot("cosine.svg", svg(figure))


def processor() -> str:
    """Return the name of the processor and what of 8-bit products it has, as Linux says; or of the machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    flags = named.get("flags", "").split()
    units = [unit for unit in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if unit in flags]
    return ", ".join([named.get("model name", platform.machine()), *units])


def encoder(counts: tuple[int, int, int], quick: bool, threads: int, events: Events) -> Found:
    """Measure MiniLM on sentences: so many to calibrate with, for validation, and for the test."""
    seconds, texts, (first, second, third) = 0.02 if quick else 0.5, sentences(), counts
    ends = (0, first, first + second, first + second + third)
    train, held, test = (words_of(texts[a:b]) for a, b in pairwise(ends))
    task = Agreement(minilm(), train=train, validation=held, test=test, name="MiniLM", dataset="fortunes")
    graphs, sizes = written(task, encoder_ways(quick), threads, events)
    calls = [{k: v[i : i + 1].numpy() for k, v in train.items()} for i in range(min(first, 48))]
    graphs |= dict(by_onnxruntime(graphs["float"], calls))
    expected = embeddings(graphs["float"], test, threads)
    quality = {name: alike(expected, embeddings(graph, test, threads)) for name, graph in graphs.items()}
    eight, one = ({k: v[:rows] for k, v in test.items()} for rows in (8, 1))
    read = {name: graph for name, graph in graphs.items() if "nbits" not in name.lower()}
    times = [milliseconds(graphs, inputs, threads, seconds) for inputs in (eight, one)]
    times.append(milliseconds(read, eight, threads, seconds, "openvino"))
    rows: list[list[Any]] = [
        [name, mega(sizes.get(name)), mega(len(graphs[name])), *(round(part, 4) for part in quality[name]),
         *(round(time[name], 1) if name in time else None for time in times)]
        for name in graphs
    ]  # fmt: skip
    head = ["file", "MB, .fw", "MB, ONNX", "cosine", "rank correlation", "ms, 8", "ms, 1", "ms, 8, OpenVINO"]
    checks = encoder_checks(quality, {name: len(graph) for name, graph in graphs.items()}, times[0])
    return [Sheet(f"MiniLM, {third} sentences", head, rows)], checks


def encoder_ways(quick: bool) -> Ways:
    """Return the recipes of MiniLM by name, and the kind of ONNX file of each; quick: the dynamic ones."""
    tables, layers = "*embeddings.weight", ["weights", "!*embeddings.weight"]
    plain, w8a8 = Encode(format=EIGHT, coder=Rans()), list(read_recipe("w8a8").steps)

    def four(format: Int, table: Int) -> list[Step]:
        swept = Gptq(where=layers, format=format, samples=64, coder=Rans())
        return [Encode(where=tables, format=table, coder=Rans()), swept]

    ways: Ways = {
        "dynamic, nearest": ([plain], "dynamic"),
        SMOOTHED: ([Smooth(), plain], "dynamic"),
        "w8a8 without smooth": ([step for step in w8a8 if not isinstance(step, Smooth)], "int8"),
        "w8a8": (w8a8, "int8"),
        "nbits, 4 bits": (four(FOUR, EIGHT), "nbits"),
        POINTS: (four(AFFINE, EIGHT), "nbits"),
        "nbits, 4 bits, tables too": (four(FOUR, FOUR), "nbits"),
    }
    return {name: way for name, way in ways.items() if way[1] == "dynamic" or not quick}


def encoder_checks(
    quality: Mapping[str, tuple[float, float]], sizes: Mapping[str, int], times: Mapping[str, float]
) -> list[Check]:
    """Return what was to be reached of cosine and rank correlation, of bytes and of milliseconds."""
    best = max((name for name in (SMOOTHED, "w8a8") if name in quality), key=quality.__getitem__)
    (cosine, rank), said = quality[best], f"that of {DYNAMIC}"
    reached = cosine >= 0.995 and rank >= 0.99
    checks = [Check("MiniLM, 8 bits", ".995, .99", f"{best}: {cosine:.4f}, {rank:.4f}", reached)]
    if POINTS in quality:
        found = quality[POINTS][0]
        checks.append(Check("MiniLM, 4 bits", ".98", f"{found:.4f}", found >= 0.98))
    if DYNAMIC in quality:
        (ours, theirs), (mine, yours) = (
            [known[name] for name in (SMOOTHED, DYNAMIC)] for known in (sizes, times)
        )
        measured = f"{ours:,} and {theirs:,}"
        checks.append(Check("MiniLM, bytes", f"those of {DYNAMIC}", measured, ours <= theirs))
        checks.append(Check("MiniLM, time", said, f"{mine:.1f}, {yours:.1f} ms", mine <= yours))
    return checks


def language(threads: int, events: Events) -> Found:
    """Measure SmolLM2 on running text: blocks 26 to 58 are the test; others, and other texts, calibrate."""
    held, test = running_text(2, 24), running_text(32, 26)
    train = torch.cat([running_text(24), running_text(53, 58), running_text(OTHERS, texts=other_sentences)])
    task = Agreement(
        smollm2, train={"input_ids": train}, validation={"input_ids": held}, test={"input_ids": held},
        calibration={"input_ids": train}, outputs="values", batch_size=2, name="SmolLM2", dataset="fortunes",
    )  # fmt: skip
    table = "model.embed_tokens.weight"
    layers = ["weights", f"!{table}"]
    swept = Gptq(where=layers, format=AFFINE, samples=len(train), damping=DAMPING)
    ways: Ways = {
        "nbits, nearest": ([Encode(where=table, format=EIGHT), Encode(where=layers, format=AFFINE)], "nbits"),
        "nbits, GPTQ": ([Encode(where=table, format=EIGHT), swept], "nbits"),
    }
    graphs, sizes = written(task, ways, threads, events)
    graphs |= dict(nbits_by_onnxruntime(graphs["float"]))
    found = {name: perplexity(graph, test, threads) for name, graph in graphs.items()}
    times = milliseconds(graphs, {"input_ids": test[:1]}, threads, 0.5)
    rows: list[list[Any]] = [
        [name, mega(sizes.get(name)), mega(len(graphs[name])), round(found[name], 2),
         round(1000 * test.shape[1] / times[name], 1) if name in times else None]
        for name in graphs
    ]  # fmt: skip
    best = min(ways, key=found.__getitem__)
    share = found[best] / found["float"] - 1
    check = Check("SmolLM2, 4 bits", "perplexity within 3 %", f"{best}: {share:+.1%}", share <= 0.03)
    head = ["file", "MB, .fw", "MB, ONNX", "perplexity", "tokens a second, 128 at once"]
    return [Sheet(f"SmolLM2, {test.numel()} tokens in blocks of {test.shape[1]}", head, rows)], [check]


def written(
    task: Agreement, ways: Ways, threads: int, events: Events
) -> tuple[dict[str, bytes], dict[str, int]]:
    """Return the ONNX graph of each way and the bytes of its `.fw` file, by name; `float` is the network itself."""
    base = file_of(Model.of(task.shared()), task)
    graphs, sizes = {"float": serialized(onnx_of(base))}, {"float": base.nbytes}
    for name, (steps, kind) in ways.items():
        artifact = file_of(run(Recipe(steps), task, threads=threads, events=events)[-1].model, task)
        linear: Any = kind
        made = qdq_of(artifact) if kind == "int8" else linear_of(artifact, linear)
        graphs[name], sizes[name] = serialized(made.onnx), artifact.nbytes
    return graphs, sizes


def file_of(model: Model, task: Agreement) -> Artifact:
    """Return a model as the file that would be delivered, without its report."""
    example = task.example()
    return loads(dumps(pack(model, export(model.module, example, captured=model.program(example)))))


def mega(nbytes: int | None) -> float | None:
    """Return bytes in MB."""
    return None if nbytes is None else round(nbytes / 1e6, 2)


def by_onnxruntime(content: bytes, calls: list[dict[str, Array]]) -> Iterator[tuple[str, bytes]]:
    """Yield what ONNX Runtime's own quantizers make of a float graph, by name."""
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        (scratch / "float.onnx").write_bytes(content)
        for name, _, made in rivals(scratch / "float.onnx", calls, scratch):
            if made:
                yield f"ONNX Runtime: {name}", made[0]
    yield from nbits_by_onnxruntime(content)


def nbits_by_onnxruntime(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what its quantizer of 4-bit weights makes, in groups of 32."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    made = list[bytes]()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        given, ready = scratch / "float.onnx", scratch / "ready.onnx"
        given.write_bytes(content)

        def quantize() -> None:
            quant_pre_process(given, ready, skip_symbolic_shape=True)
            model = onnx.load(ready)
            quantizer = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=4)
            quantizer.process()
            made.append(serialized(quantizer.model.model))

        attempted(quantize, scratch)
    for graph in made:
        yield "ONNX Runtime: MatMulNBitsQuantizer", graph


def session(content: bytes, threads: int, runtime: str = "onnxruntime") -> Callable[[Inputs], Array]:
    """Return what computes the first output of a graph."""
    model = onnx.ModelProto.FromString(content)
    opened = Session.of_onnx(model, threads=threads, runtime=runtime, exact=False)
    return lambda inputs: opened.run({name: tensor.numpy() for name, tensor in inputs.items()})


def embeddings(content: bytes, inputs: Inputs, threads: int) -> Array:
    """Return unit vectors `[n, channels]`: the mean of the tokens that are there."""
    call, count = session(content, threads), len(inputs["input_ids"])
    parts = [call({k: v[i : i + 20] for k, v in inputs.items()}) for i in range(0, count, 20)]
    mask = inputs["attention_mask"].numpy()[..., None]
    means: Array = (np.concatenate(parts) * mask).sum(1) / mask.sum(1)
    units: Array = means / np.linalg.norm(means, axis=1, keepdims=True)
    return units


def alike(expected: Array, found: Array) -> tuple[float, float]:
    """Return the mean cosine, and the rank correlation of the similarities of all pairs."""
    from scipy.stats import spearmanr

    pairs = np.triu_indices(len(expected), 1)
    similarities = [(side @ side.T)[pairs] for side in (expected, found)]
    return float((expected * found).sum(1).mean()), float(spearmanr(*similarities).statistic)


def perplexity(content: bytes, tokens: Tensor, threads: int) -> float:
    """Return the exponential of the mean cross-entropy of the next token, of blocks `[n, tokens]`."""
    call, total = session(content, threads), 0.0
    for block in torch.split(tokens, 2):
        scores = torch.from_numpy(np.asarray(call({"input_ids": block})))[:, :-1].flatten(0, 1)
        total += float(nn.functional.cross_entropy(scores, block[:, 1:].reshape(-1), reduction="sum"))
    return float(np.exp(total / tokens[:, 1:].numel()))


def milliseconds(
    graphs: Mapping[str, bytes], inputs: Inputs, threads: int, seconds: float, runtime: str = "onnxruntime"
) -> dict[str, float]:
    """Return the milliseconds of a call of each graph, in turns; of those that the runtime runs."""
    calls: dict[str, Callable[[], object]] = {}
    for name, content in graphs.items():
        try:
            opened = session(content, threads, runtime)
            opened(inputs)
        except Exception:  # what this runtime refuses has no time
            continue
        calls[name] = lambda opened=opened: opened(inputs)  # type: ignore[misc]
    return {timing.name: timing.milliseconds for timing in interleaved(calls, seconds=seconds)}
