"""Per-layer sensitivity: each tensor, each option, alone: what it costs in bytes and what it does to the loss."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal, get_args

import msgspec
import torch
from torch import Tensor

from featherweight.curvature.hvp import BatchLoss, fisher_by_batch, hessian_traces, own_loss
from featherweight.errors import ConfigError, TaskError, UnsupportedError
from featherweight.evaluation.metrics import predictor
from featherweight.events import Finished, Progress, Started
from featherweight.formats import AnyCoder, AnyFormat, Float, Int, Log2, tag
from featherweight.formats.floating import BITS
from featherweight.graph import Graph
from featherweight.model import Model, Note, equal_bits
from featherweight.selectors import Where, select, weights
from featherweight.structure import to_call
from featherweight.task import Predict, Task
from featherweight.task.outputs import scores_of
from featherweight.task.protocol import failures
from featherweight.task.samples import size_of
from featherweight.task.sampling import drawn
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.work import Subject
from featherweight.workspace import Workspace

PredictionMethod = Literal["fisher", "empirical", "hawq"]
SensitivityMethod = Literal["measured", PredictionMethod]
# The loss that an error of a tensor, by name, is expected to add.
Damage = Callable[[str, Tensor], float]
SHOWN = ("bits", "per", "kind")


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to write a tensor.

    Attributes:
        format: the format; None leaves the tensor float.
        coder: the coder, or `smallest`: whichever gives the fewest bytes.
    """

    format: AnyFormat | None = None
    coder: AnyCoder | Literal["smallest"] = "smallest"

    @property
    def label(self) -> str:
        """What tables call it: `int 4 channel mse`, and the coder where it is not the smallest."""
        coder = "" if self.coder == "smallest" else f", {label(self.coder)}"
        return "float as it is" if self.format is None else label(self.format) + coder


def label(kind: AnyFormat | AnyCoder) -> str:
    """Return a format or coder as its name and options: what differs from the defaults, and those of `SHOWN`."""
    fields = {name: getattr(kind, name) for name in kind.__struct_fields__}
    defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False))
    shown = [str(value) for name, value in fields.items() if name in SHOWN or value != defaults.get(name)]
    return " ".join([tag(kind), *shown])


class Cell(msgspec.Struct, frozen=True):
    """One tensor under one option, all others float.

    Attributes:
        tensor: canonical name.
        option: what it was encoded as.
        nbytes: bytes of the tensor in a file.
        loss: mean loss on the validation split minus that of the float network, measured or predicted.
        error: squared error of the tensor, relative to its energy.
    """

    tensor: str
    option: Option
    nbytes: int
    loss: float
    error: float


class Sensitivity(msgspec.Struct, frozen=True):
    """The table: what each tensor costs and suffers under each option.

    Attributes:
        base: mean loss of the float network on the validation split.
        cells: every tensor under every option that can take it.
        skipped: the pairs that cannot be, and why.
    """

    base: float
    cells: list[Cell]
    skipped: list[Note] = []

    @property
    def rows(self) -> list[list[Cell]]:
        """The cells of each tensor, in the order of the module."""
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.tensor, []).append(cell)
        return list(rows.values())


def measure(
    model: Model,
    workspace: Workspace,
    options: Sequence[Option],
    *,
    by: SensitivityMethod = "measured",
    where: Where | None = None,
    batches: int = 16,
) -> Sensitivity:
    """Measure, or predict, what every selected tensor does under every option, alone, on the validation split.

    Each cell is a unit of work for the workspace's executor, and is kept in the store, so that a killed measurement
    resumes.

    Args:
        model: the float network.
        workspace: its task gives the validation split and the loss.
        options: what a tensor may become.
        by: `measured`: the loss, once a cell; else predicted from one curvature for all cells, see `predict_damage`.
        where: which tensors; without it `weights`, if the network has any.
        batches: how many validation batches; fewer if there are no more.

    Raises:
        ConfigError: there is no such method.
        TaskError: the loss of the float network is not finite.
    """
    if by not in get_args(SensitivityMethod):
        expected = ", ".join(get_args(SensitivityMethod))
        raise ConfigError("not a method", where="sensitivity", got=repr(by), expected=expected)
    names = weights(model) if where is None else select(model, where)
    cells: list[Cell] = []
    skipped = [] if names else [Note("skipped", "weights", "there are none of two or more dimensions")]
    with workspace.pinned():
        base = _mean_loss(model, workspace.task, batches)
        if not math.isfinite(base):
            where = f"{workspace.task.name}, validation split"
            raise TaskError("the loss of the float network is not finite", where=where)
        asked = [Asked(name, option, names, by, batches, base) for name, option in product(names, options)]
        workspace.events(Started("sensitivity", len(asked)))
        found = Subject([model], workspace).answers(cell_of, asked)
        for done, (question, cell) in enumerate(zip(asked, found, strict=True), start=1):
            if isinstance(cell, Cell):
                cells.append(cell)
            else:
                skipped.append(Note("skipped", question.tensor, f"{question.option.label}: {cell}"))
            workspace.events(Progress("sensitivity", done))
    workspace.events(Finished("sensitivity", 0.0))
    return Sensitivity(base, cells, skipped)


class Asked(msgspec.Struct, frozen=True):
    """Which cell, of all tensors `names`, and how it is found; `base` is the mean loss of the float network."""

    tensor: str
    option: Option
    names: list[str]
    by: SensitivityMethod
    batches: int
    base: float


def cell_of(subject: Subject, question: Asked) -> Cell | str:
    """Return one tensor under one option, or why it cannot be."""
    q, model, task, seed = question, subject.model, subject.workspace.task, subject.workspace.seed
    before = model.tensors[q.tensor].detach()
    if q.option.format is None:
        return Cell(q.tensor, q.option, before.numel() * before.element_size(), 0.0, 0.0)
    try:
        after = encode_step(q.tensor, q.option).apply(model, task, Context(seed))
    except UnsupportedError as error:
        return error.what
    value = after.tensors[q.tensor].detach()
    energy = float(before.double().square().sum()) or 1.0
    distance = float((value - before).double().square().sum()) / energy
    if equal_bits(before, value):
        loss = 0.0
    elif q.by == "measured":
        loss = _mean_loss(after, task, q.batches) - q.base
    else:
        predict = partial(predict_damage, q.by, model, task, q.names, batches=q.batches, seed=seed)
        loss = subject.once(q.by, predict)(q.tensor, value - before)
    if not math.isfinite(loss):
        return "its loss is NaN or infinite"
    return Cell(q.tensor, q.option, after.weights[q.tensor].nbytes, loss, distance)


def encode_step(name: str, option: Option) -> Encode:
    """Return the step that gives one tensor its option."""
    assert option.format is not None
    return Encode(where=name, format=option.format, coder=option.coder)


def _mean_loss(model: Model, task: Task, batches: int) -> float:
    predict = predictor(to_call(model.module))
    with failures(f"{task.name}, loss on validation"), torch.inference_mode():
        seen = drawn(task, "validation", batches=batches)
        losses = [float(task.loss(predict(task.inputs(batch)), batch)) for batch in seen]
    return sum(losses) / len(losses)


def predict_damage(
    by: PredictionMethod, model: Model, task: Task, names: Sequence[str], *, batches: int = 16, seed: int = 0
) -> Damage:
    """Return the damage `e' H e / 2` of an error e in one of `names`, for a curvature H that is cheap.

    `fisher`: the diagonal of the Fisher matrix, labels drawn from the network's own outputs (logits); no label is
    read, and the loss is the divergence (KL) from what the network said. `empirical`: the same with the labels and
    the loss of the task. `hawq`: the mean of the trace of the Hessian of the task's loss, the same for each weight
    of a tensor.

    References: LeCun, Denker, Solla, Optimal brain damage, 1989, eq. 3 (diagonal); Dong et al., HAWQ-V2, 2020,
    arXiv 1911.03852, eq. 6 (mean trace).

    Args:
        by: which curvature.
        model: the float network.
        task: gives the validation split.
        names: tensors.
        batches: how many validation batches to see.
        seed: of drawn labels and signs.
    """
    with failures(f"{task.name}, loss on validation"), torch.enable_grad():
        if by == "hawq":
            traces = hessian_traces(model, names, _losses(task, batches), seed=seed)
            return lambda name, error: 0.5 * traces[name] * float(error.double().square().mean())
        generator = torch.Generator().manual_seed(seed) if by == "fisher" else None
        diagonal = fisher_by_batch(model, names, _losses(task, batches, generator))
    return lambda name, error: 0.5 * float((diagonal[name] * error.double().square()).sum())


def _losses(task: Task, batches: int, generator: torch.Generator | None = None) -> Iterator[BatchLoss]:
    """Yield the loss of each batch and its samples: the task's, or given a generator that of drawn labels."""

    def loss(run: Predict, batch: Any, inputs: Any) -> Tensor:
        output = run(inputs)
        return task.loss(output, batch) if generator is None else own_loss(scores_of(task, output), generator)

    for batch in drawn(task, "validation", batches=batches):
        inputs = task.inputs(batch)
        yield partial(loss, batch=batch, inputs=inputs), size_of(inputs)


def bit_operations(
    graph: Graph, rows: Sequence[Sequence[Cell]], *, activations: int = 8
) -> list[list[float]]:
    """Return the bit operations of one sample for each cell: multiply-accumulates times both widths.

    In the place of bytes this is what `allocate` limits: `allocate(damage, bit_operations(graph, rows), limit)`.
    A tensor that nothing is multiplied with costs none.

    References: Yao et al., HAWQ-V3, 2021, arXiv 2011.10680, section 3.4.

    Args:
        graph: says what reads each tensor, and its multiply-accumulates.
        rows: the cells of each tensor.
        activations: bits of the other operand.
    """
    macs = Counter[str]()
    for node in graph.nodes:
        macs[node.roles.get("weight", "")] += node.macs or 0
    return [
        [float(macs[cell.tensor] * operand_bits(cell.option) * activations) for cell in row] for row in rows
    ]


def operand_bits(option: Option) -> int:
    """Return the width of what is multiplied: of a codebook, its float32 values.

    >>> operand_bits(Option(Int(bits=4))), operand_bits(Option())
    (4, 32)
    """
    match option.format:
        case Int(bits=bits) | Log2(bits=bits):
            return bits
        case Float(kind=kind):
            return BITS[kind]
    return 32
