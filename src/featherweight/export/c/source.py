"""A file as C99 for microcontrollers: one header with the weights as they are stored, decoders and integer kernels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from featherweight.artifact import Artifact
from featherweight.export.c.program import Program, Step, arena, byte
from featherweight.export.c.steps import program_of
from featherweight.export.c.streams import Code, codes_of
from featherweight.export.c.text import (
    CSource,
    Text,
    comment,
    dimensions,
    flash_of,
    header,
    literal,
    parts_of,
    spent,
    template,
)
from featherweight.export.c.weights import weights_of
from featherweight.export.float_graph import opened

_KERNELS = {
    "max_pool": {"pool", "max_pool"}, "average_pool": {"pool", "average_pool"}, "add": {"add"}, "clamp": {"clamp"},
    "move": {"move"},
}  # fmt: skip
# The fields of structures in C, in order, that are numbers of a step.
_LAYER = (
    "channels", "height", "width", "out_channels", "out_height", "out_width", "groups", "kernel_h", "kernel_w",
    "stride_h", "stride_w", "dilation_h", "dilation_w", "pad_top", "pad_left", "zero", "out_zero", "least", "most",
)  # fmt: skip
_POOL = (
    "channels", "height", "width", "out_height", "out_width", "kernel_h", "kernel_w", "stride_h", "stride_w",
    "dilation_h", "dilation_w", "pad_top", "pad_left", "zero", "out_zero", "least", "most", "shift", "multiplier",
)  # fmt: skip
_MOVE = (
    "channels", "height", "width", "out_channels", "out_height", "out_width", "start_c", "start_h", "start_w",
    "step_c", "step_h", "step_w", "zero",
)  # fmt: skip
_ADD = ("count", "multiplier_a", "multiplier_b", "shift", "zero_a", "zero_b", "out_zero", "least", "most")


def c_of(artifact: Artifact) -> CSource:
    """Return a file as C99: a network with quantized activations runs; of any other, the tensors are decoded.

    Layers of integer weights compute as ONNX Runtime does, bit for bit: the int32 sum of products and bias, as a
    float32 number, times the float32 ratio of steps, rounded half to even. Layers of a codebook, averages and sums
    of activations are multiplied by integers of 30 bits and shifted, rounded half to even; for averages and sums
    every input that there can be was tried against the simulation, and what differs is among the notes.

    Raises:
        UnsupportedError: operators, layers or coders without a form in C; one error names them all.
        IntegrityError: the graph or a tensor is damaged.
    """
    if artifact.lazy_graph is None or not artifact.activations:
        return weights_of(artifact)
    graph, tensors, encoded = opened(artifact)
    program = program_of(graph, tensors, encoded, artifact.activations)
    used = dict.fromkeys(step.weight for step in program.steps if step.weight)
    return _network(artifact, program, codes_of(artifact, {name: encoded[name] for name in used}))


def _network(artifact: Artifact, program: Program, codes: Mapping[str, Code]) -> CSource:
    text = Text()
    fields = {name: text.code(number, name, code) for number, (name, code) in enumerate(codes.items())}
    for number, (name, given) in enumerate(fields.items()):
        text.lines.append(f"static const fw_code fw_code_{number} = {given};{comment(name)}")
    numbers = {name: number for number, name in enumerate(codes)}
    offsets, scratches, whole = arena(program, lambda step: sum(_scratch(step, codes)))
    places = {number: f"memory + {offset}" for number, offset in enumerate(offsets)}
    places |= {program.input.buffer: "input", program.output.buffer: "scores"}
    calls = []
    for number, (step, scratch) in enumerate(zip(program.steps, scratches, strict=True)):
        calls.append(_call(text, number, step, places, scratch, codes, numbers))
    parts = {"scores", *parts_of(codes.values()), *({"rows", "layer"} if codes else ())}
    for step in program.steps:
        parts |= _KERNELS.get(step.op, set())
        if any(table is not None for table in step.tables):
            parts.add("lookup")
        if step.sums:
            parts.add("layer_int8" if step.sums.codebook is None else "layer_codebook")
    inputs, outputs, quantizer = (
        prod(program.input.shape),
        prod(program.output.shape),
        program.input.quantizer,
    )
    assert quantizer is not None
    flash = flash_of(codes.values(), text, parts)
    about = [
        f"A network of {len(program.steps)} steps in integers, its weights as they are stored.",
        spent(flash, "scales, biases and codebooks"),
        f"RAM: {whole:,} bytes of arena (activations, decoding), {inputs:,} of input, {4 * outputs:,} of scores.",
        *program.notes,
    ]
    ends = ", ".join(str(byte(quantizer, q)) for q in (quantizer.zero_point, *quantizer.grid))
    body = _RUN.format(
        inputs=inputs, outputs=outputs, arena=whole, text=text, calls="\n".join(calls), ends=ends,
        read=dimensions(program.input.shape), written=dimensions(program.output.shape),
        scale=literal(quantizer.scale),
    )  # fmt: skip
    text_of = header(artifact, about, parts, body)
    files = {"model.h": text_of, "main.c": template("main.c"), "Makefile": template("Makefile")}
    ram = {"arena": whole, "input": inputs, "scores": 4 * outputs}
    return CSource("network", files, flash, ram, program.notes)


_RUN = """
#define FW_INPUTS {inputs}u /* bytes: {read} */
#define FW_OUTPUTS {outputs}u /* scores, float32: {written} */
#define FW_ARENA {arena}u /* bytes that fw_run works in */

{text}
/* The byte of an input, which is a number. */
static inline uint8_t fw_quantize(float value)
{{
    return fw_to_byte(value, {scale}, {ends});
}}

/* Compute the scores of one input. `arena`: FW_ARENA bytes, aligned to 8. 0: the weights are damaged. */
static inline int fw_run(const uint8_t *input, float *scores, void *arena)
{{
    unsigned char *memory = (unsigned char *)arena;
    (void)memory;
{calls}
    return 1;
}}

/* The class of an input: the place of its greatest score. */
static inline uint32_t fw_class(const float *scores)
{{
    return fw_greatest(scores, FW_OUTPUTS);
}}
"""


def _scratch(step: Step, codes: Mapping[str, Code]) -> tuple[int, int]:
    """Return the bytes of a row of a layer's weights, and of what decoding takes."""
    if step.sums is None:
        return 0, 0
    code, width = codes[step.weight], 1 if step.sums.codebook is None else 4
    return -(-code.spec.row_length * width // 8) * 8, code.work


def _call(
    text: Text, number: int, step: Step, places: Mapping[int, str], scratch: int, codes: Mapping[str, Code],
    numbers: Mapping[str, int],
) -> str:  # fmt: skip
    """Define what a step needs; return its call.

    Args:
        text: gets the definitions.
        number: of the step.
        step: which.
        places: of the buffers, as expressions.
        scratch: offset of the step's own memory.
        codes: the streams.
        numbers: theirs, by name.
    """
    reads, writes = [places[value.buffer] for value in step.inputs], places[step.output.buffer]
    x = step.inputs[0].quantizer
    assert x is not None
    zero, name, known = byte(x, x.zero_point), f"fw_step_{number}", dict(step.numbers)
    about = f"    {comment(f'{step.name}: {step.op}, {dimensions(step.output.shape)}').strip()}\n"
    if step.op == "layer":
        row, work = _scratch(step, codes)
        kind = _define_layer(text, number, step, known | {"zero": zero}, numbers[step.weight])
        pointer = "int32_t" if kind == "codebook" else "int8_t"
        memory = f"({pointer} *)(void *)(memory + {scratch}), memory + {scratch + row}, {work}"
        return f"{about}    if (!fw_layer_{kind}(&{name}, {reads[0]}, {writes}, {memory}))\n        return 0;"
    if step.op == "join":
        lines, at = [], 0
        for place, (value, table) in enumerate(zip(step.inputs, step.tables, strict=True)):
            size, call = prod(value.shape), f"{writes} + {at}, {reads[place]}"
            if table is not None:
                given = text.table(f"fw_table_{number}_{place}", table, step.name)
                lines.append(f"    fw_lookup({reads[place]}, {writes} + {at}, {size}, {given});")
            else:
                lines.append(f"    memcpy({call}, {size});")
            at += size
        return about + "\n".join(lines)
    if step.op == "move":
        text.lines.append(f"static const fw_move {name} = {{{_listed(known, _MOVE)}}};")
        return f"{about}    fw_move_bytes(&{name}, {reads[0]}, {writes});"
    if step.op == "clamp":
        return f"{about}    fw_clamp_bytes({reads[0]}, {writes}, {known['count']}, {known['least']}, {known['most']});"
    if step.op == "floats":
        count = prod(step.output.shape)
        return f"{about}    fw_to_floats({reads[0]}, {writes}, {count}, {literal(x.scale)}, {zero});"
    if step.op == "add":
        second = step.inputs[1].quantizer
        assert second is not None
        known |= {"zero_a": zero, "zero_b": byte(second, second.zero_point)}
        text.lines.append(f"static const fw_add {name} = {{{_listed(known, _ADD)}}};")
        return f"{about}    fw_add_bytes(&{name}, {reads[0]}, {reads[1]}, {writes});"
    known = {"zero": zero, "out_zero": 0, "least": 0, "most": 0, "shift": 0, "multiplier": 0} | known
    text.lines.append(f"static const fw_pool {name} = {{{_listed(known, _POOL)}}};")
    return f"{about}    fw_{step.op}(&{name}, {reads[0]}, {writes});"


def _define_layer(text: Text, number: int, step: Step, known: Mapping[str, int], code: int) -> str:
    """Define a layer and its tables; return which kernel computes it."""
    sums = step.sums
    assert sums is not None
    scale = "NULL" if sums.scale is None else text.bits(f"fw_scale_{number}", sums.scale, step.name)
    bias = codebook = wide = "NULL"
    if sums.codebook is not None:
        codebook = text.table(f"fw_codebook_{number}", sums.codebook, step.name)
    if sums.bias is not None:
        table = text.table(f"fw_bias_{number}", sums.bias, step.name)
        bias, wide = (table, wide) if sums.codebook is None else (bias, table)
    flags = [
        sums.bits,
        sums.shift,
        int(sums.scale is not None and sums.scale.size > 1),
        int(step.output.quantizer is None),
    ]
    tables = f"{scale}, {bias}, {codebook}, {wide}"
    fields = f"&fw_code_{code}, {_listed(known, _LAYER)}, {', '.join(map(str, flags))}, {tables}"
    text.lines.append(f"static const fw_layer fw_step_{number} = {{{fields}}};")
    return "int8" if sums.codebook is None else "codebook"


def _listed(numbers: Mapping[str, int], names: Iterable[str]) -> str:
    return ", ".join(str(numbers[name]) for name in names)
