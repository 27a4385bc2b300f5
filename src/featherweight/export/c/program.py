"""The steps of a network, each one call of a kernel in C, and where its activations lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from featherweight.activations import Affine
from featherweight.export.c.sums import LayerSums
from featherweight.formats.view import Array


@dataclass(frozen=True)
class Value:
    """An activation: which buffer holds it, its shape without the batch, its quantizer (None: float scores)."""

    buffer: int
    shape: tuple[int, ...]
    quantizer: Affine | None


@dataclass(frozen=True, eq=False)
class Step:
    """One call.

    Attributes:
        op: `layer`, `max_pool`, `average_pool`, `add`, `join`, `move`, `clamp` or `floats`.
        name: of the node.
        inputs: what it reads.
        output: what it writes.
        numbers: what the kernel needs, by the names of its fields.
        weight: canonical name of a layer's weight.
        sums: how a layer sums and rounds.
        tables: of a join, for each input, the bytes `[256]` that take the place of its own; None: they stay.
    """

    op: str
    name: str
    inputs: tuple[Value, ...]
    output: Value
    numbers: Mapping[str, int] = field(default_factory=dict)
    weight: str = ""
    sums: LayerSums | None = None
    tables: tuple[Array | None, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """The steps of a network.

    Attributes:
        steps: in order; the last one writes the scores.
        input: what the network reads.
        output: the scores.
        sizes: bytes of each buffer; 0: the caller's own, of the input and of the scores.
        notes: what is not as in the simulation.
    """

    steps: tuple[Step, ...]
    input: Value
    output: Value
    sizes: tuple[int, ...]
    notes: tuple[str, ...]


def byte(quantizer: Affine, q: int) -> int:
    """Return an integer of a quantizer as its byte in C: signed ones are moved by 128."""
    return q + 128 * quantizer.signed


Scratch = Callable[[Step], int]


def arena(program: Program, scratch: Scratch) -> tuple[list[int], list[int], int]:
    """Return where each buffer and each step's scratch lie in one block, and its size; offsets are multiples of 8.

    A buffer lives from the step that writes it to the last that reads it. The largest is placed first, each at the
    lowest place where it meets none that lives with it.

    References: Pisarchyk and Lee, Efficient memory management for deep neural net inference, 2020 (greedy by size).
    """
    steps, count = program.steps, len(program.sizes)
    lives = [[len(steps), -1] for _ in range(count)]
    for time, step in enumerate(steps):
        for value in (*step.inputs, step.output):
            lives[value.buffer] = [min(lives[value.buffer][0], time), max(lives[value.buffer][1], time)]
    wanted = [*program.sizes, *map(scratch, steps)]
    lives += [[time, time] for time in range(len(steps))]
    offsets, placed = [0] * len(wanted), list[int]()
    for item in sorted((i for i, size in enumerate(wanted) if size), key=lambda i: -wanted[i]):
        at = 0
        beside = [i for i in placed if lives[i][0] <= lives[item][1] and lives[item][0] <= lives[i][1]]
        for other in sorted(beside, key=offsets.__getitem__):
            if at + wanted[item] <= offsets[other]:
                break
            at = max(at, offsets[other] + -(-wanted[other] // 8) * 8)
        offsets[item] = at
        placed.append(item)
    whole = max((offsets[i] + -(-wanted[i] // 8) * 8 for i in placed), default=0)
    return offsets[:count], offsets[count:], whole
