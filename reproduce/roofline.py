"""A roofline: what this processor can do at most, measured, and what that predicts of the operators of some work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from featherweight.runtime.timing import STARVED, Timing, timing
from featherweight.task.training import Precision
from reproduce.results import Cell, Sheet

TYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
K = TypeVar("K")
TERMS = ("arithmetic", "memory", "calls")
UNITS = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_fp16",
    "avx_vnni",
    "avx512_vnni",
)
SIDE = 512  # of the matrices whose product is timed
LONG, MOST = 0.02, 10_000  # seconds that a step is repeated for, and the most repeats
ROUNDS = 10


@dataclass(frozen=True)
class Machine:
    """What the processor does at most.

    Attributes:
        peak: multiply-accumulates a second of a large matrix product or a convolution, whichever is faster, by type.
        sizes: bytes that a copy reads and writes, ascending.
        bandwidth: bytes a second of each.
        call: seconds of an operator on one number.
    """

    peak: Mapping[torch.dtype, float]
    sizes: Sequence[int]
    bandwidth: Sequence[float]
    call: float

    def terms(self, operator: Operator) -> tuple[float, float, float]:
        """Return the seconds that arithmetic, memory and the call alone would take; the roofline is the largest."""
        rate = float(np.interp(np.log2(max(operator.nbytes, 1)), np.log2(self.sizes), self.bandwidth))
        return operator.macs / self.peak.get(operator.type, np.inf), operator.nbytes / rate, self.call


@dataclass(frozen=True)
class Operator:
    """A call of an operator.

    Attributes:
        name: of aten.
        macs: multiply-accumulates.
        nbytes: of the tensors that it reads, and of those that it writes.
        type: of the first tensor.
    """

    name: str
    macs: int
    nbytes: int
    type: torch.dtype


@dataclass(frozen=True)
class Work:
    """The operators of a piece of work, in order."""

    operators: Sequence[Operator]

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(operator.macs for operator in self.operators)

    @property
    def nbytes(self) -> int:
        """Bytes that operators read and write."""
        return sum(operator.nbytes for operator in self.operators)

    def predicted(self, machine: Machine) -> tuple[float, str]:
        """Return the seconds of the roofline, summed over operators, and the term that binds for most of them."""
        terms = np.array([machine.terms(operator) for operator in self.operators]).reshape(-1, len(TERMS))
        most = terms.max(1, initial=0)
        shares = [most[terms.argmax(1) == place].sum() for place in range(len(TERMS))]
        return float(most.sum()), TERMS[int(np.argmax(shares))]


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what operators are called within; views, which move nothing, are left out.

    >>> with Counting() as counting:
    ...     y = (torch.ones(2, 3) @ torch.ones(3, 4)).T.relu_()
    >>> [(operator.name, operator.macs, operator.nbytes) for operator in counting.work.operators]
    [('ones', 0, 24), ('ones', 0, 48), ('mm', 24, 104), ('relu_', 0, 64)]
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operator] = []

    @property
    def work(self) -> Work:
        """What was called so far."""
        return Work(tuple(self.found))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator and keep what it costs."""
        out = func(*args, **(kwargs or {}))
        read, written = _tensors((args, kwargs)), _tensors(out)
        name = func._overloadpacket.__name__
        storages = {tensor.untyped_storage()._cdata for tensor in read}
        view = not func._schema.is_mutable and any(t.untyped_storage()._cdata in storages for t in written)
        if written and not view and not name.startswith(("empty", "new_empty")):
            macs = _macs(func._overloadpacket, args, kwargs or {}, out)
            nbytes = sum(map(_nbytes, read)) + sum(map(_nbytes, written))
            self.found.append(Operator(name, macs, nbytes, (read or written)[0].dtype))
        return out


def _macs(operator: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Return the multiply-accumulates of a call; torch's own count of backward convolutions knows no groups."""
    if operator is torch.ops.aten.convolution_backward:
        gradient, x, weight, *_ = args
        transposed, asked = args[7], args[10]
        once = (x if transposed else gradient).numel() * weight[0].numel()
        return int(once * sum(asked[:2]))
    count = flop_registry.get(operator)
    return int(count(*args, **kwargs, out_val=out)) // 2 if count else 0


def _tensors(tree: Any) -> list[Tensor]:
    return list({id(leaf): leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)}.values())


def _nbytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def measure(quick: bool) -> tuple[Machine, Sheet]:
    """Return what the processor does at most, and the table of it: medians of repeated kernels, in turns.

    Times are of the processor, of one thread.
    """
    side, steps = (64, range(14, 17)) if quick else (SIDE, range(14, 29, 2))
    calls: dict[str, Callable[[], object]] = {}
    for name, dtype in TYPES.items():
        matrix = torch.ones(side, side, dtype=dtype)
        image = torch.ones(8, 64, side // 16, side // 16, dtype=dtype).to(memory_format=torch.channels_last)
        kernel = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
        calls[f"product of {side} x {side} matrices, {name}"] = partial(torch.mm, matrix, matrix)
        calls[f"convolution of 64 channels, 3 x 3, {name}"] = partial(torch.conv2d, image, kernel, padding=1)
    macs = (side**3, 8 * 64 * (side // 16) ** 2 * 64 * 9)
    sizes = [1 << step for step in steps]
    for size in sizes:
        source = torch.ones(size // 8)
        calls[f"copy, {size:,} bytes read and written"] = partial(torch.empty_like(source).copy_, source)
    one = torch.ones(1)
    calls["addition of one number"] = partial(torch.add, one, one, out=torch.empty(1))
    kernels = {name: {name: call} for name, call in calls.items()}
    found = [times[name] for name, times in phases(kernels, 2 if quick else ROUNDS).items()]
    taken = [kernel.milliseconds / 1000 for kernel in found]
    products = [macs[place % 2] / s for place, s in enumerate(taken[: 2 * len(TYPES)])]
    peak = {dtype: max(products[2 * at : 2 * at + 2]) for at, dtype in enumerate(TYPES.values())}
    bandwidth = [size / s for size, s in zip(sizes, taken[2 * len(TYPES) : -1], strict=True)]
    machine = Machine(peak, sizes, bandwidth, taken[-1])
    rates = [f"{value / 1e9:.3g} GMAC/s" for value in products]
    rates += [f"{value / 1e9:.1f} GB/s" for value in bandwidth]
    rows = [row(kernel, rate) for kernel, rate in zip(found, [*rates, ""], strict=True)]
    return machine, Sheet(
        "What the processor does at most", ["kernel", "ms", "10 % to 90 %", "rate", "quiet"], rows
    )


def row(kernel: Timing, rate: str) -> list[Cell]:
    """Return a line of a table of kernels."""
    spread = f"{kernel.low:.4g} to {kernel.high:.4g}"
    return [kernel.name, f"{kernel.milliseconds:.4g}", spread, rate, "yes" if kernel.quiet else "no"]


def processor() -> str:
    """Return the name of the processor and which units for short numbers it says that it has."""
    lines = Path("/proc/cpuinfo")
    if not lines.is_file():
        return "not known"
    said = dict[str, str]()
    for line in lines.read_text().splitlines():
        name, _, value = line.partition(":")
        said[name.strip()] = value.strip()
    flags = said.get("flags", "").split()
    has, lacks = ([u for u in UNITS if (u in flags) == there] for there in (True, False))
    return f"{said.get('model name', 'not known')}: {', '.join(has)}; not {', '.join(lacks)}"


# What a step does, phase by phase.
Phases = Mapping[str, Callable[[], object]]


def phases(steps: Mapping[K, Phases], rounds: int) -> dict[K, dict[str, Timing]]:
    """Return the processor time of each phase of each step, measured in turns, in an order that rotates.

    A step is repeated until it is long enough to be timed, and its phases summed. What others took of the processor is
    not counted; rounds in which they had it are left out where ten others are there.
    """
    repeats, taken, busy = {}, _lists(steps), _lists(steps)
    for name, step in steps.items():
        _times(step, 1)
        once = sum(cpu for _, cpu in _times(step, 1).values())
        repeats[name] = max(1, min(int(LONG / max(once, 1e-6)), MOST))
    names = list(steps)
    for turn in range(rounds):
        at = turn % len(names)
        for name in [*names[at:], *names[:at]]:
            for phase, (wall, cpu) in _times(steps[name], repeats[name]).items():
                taken[name][phase].append(1000 * cpu / repeats[name])
                busy[name][phase].append(wall > STARVED * cpu)
    return {
        name: {phase: timing(phase, np.array(taken[name][phase]), np.array(busy[name][phase])) for phase in step}
        for name, step in steps.items()
    }  # fmt: skip


def _lists(steps: Mapping[K, Phases]) -> dict[K, dict[str, list[Any]]]:
    return {name: {phase: [] for phase in step} for name, step in steps.items()}


def _times(step: Phases, repeats: int) -> dict[str, tuple[float, float]]:
    """Return wall time and processor time of each phase, of so many steps together."""
    found = dict.fromkeys(step, (0.0, 0.0))
    inner = repeats if len(step) == 1 else 1  # a phase alone is timed as a whole
    for _ in range(repeats // inner):
        for phase, call in step.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(inner):
                call()
            before = found[phase]
            found[phase] = (
                before[0] + time.perf_counter() - wall,
                before[1] + time.process_time() - cpu,
            )
    return found


def counted(step: Phases) -> dict[str, Work]:
    """Return the operators that each phase of a step calls."""
    found = {}
    for phase, call in step.items():
        with Counting() as counting:
            call()
        found[phase] = counting.work
    return found


def together(works: Iterable[Work]) -> Work:
    """Return several pieces of work as one."""
    return Work([operator for work in works for operator in work.operators])
