"""The steps that give a network its weights: `train` and `finetune`, with their options, and `load`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from featherweight.errors import ConfigError, TaskError, UnsupportedError
from featherweight.events import Note
from featherweight.formats import AnyCoder, AnyFormat, Fixed, Format, tag
from featherweight.rounding import Rounding
from featherweight.task import Needs, Task, training
from featherweight.task.protocol import failures
from featherweight.task.training import Training
from featherweight.techniques.base import Context, Item, Step, Where
from featherweight.techniques.encode import formats_of, nearest, recoded, unfit
from featherweight.training.losses import AnyLoss, Loss, TaskLoss, total
from featherweight.training.methods import AnyMethod, StraightThrough
from featherweight.training.methods.base import OfGradient, RangeSurrogate, Surrogate, shares

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.graph import Edge
    from featherweight.model import Model


class TrainingStep(Step, frozen=True, kw_only=True, omit_defaults=True):
    """A step that trains. Options left out are the task's own (`task.training`), then those of `Training`.

    `Training` tells what each means. The batch size is the task's.

    Attributes:
        loss: what training minimises: `task`, `distillation`, `hints`, `attention`, `features` or `guidance`; of
            several the sum. By default `task`.
    """

    epochs: training.Epochs | None = None
    optimizer: training.Optimizer | None = None
    lr: training.Rate | None = None
    momentum: training.Momentum | None = None
    weight_decay: training.Decay | None = None
    schedule: training.Schedule | None = None
    warmup: training.Warmup | None = None
    clip: training.Clip | None = None
    keep_zeros: bool | None = None
    precision: training.Precision | None = None
    weights: Rounding | None = None
    gradients: Rounding | None = None
    moments: Rounding | None = None
    loss: AnyLoss | Annotated[list[AnyLoss], Meta(min_length=1)] | None = None

    @property
    def needs(self) -> Needs:  # type: ignore[override]
        """What its losses need; the task's needs labels."""
        return "labelled" if any(loss.needs == "labelled" for loss in self.losses) else "unlabelled"

    @property
    def losses(self) -> list[Loss]:
        """What training minimises the sum of."""
        return self.loss if isinstance(self.loss, list) else [self.loss or TaskLoss()]

    def __post_init__(self) -> None:
        """Refuse options that mean nothing together.

        Raises:
            ConfigError: names the option.
        """
        super().__post_init__()
        try:
            Training(**self.given())
        except ConfigError as error:
            where = f"{tag(self)}.{error.where}"
            raise ConfigError(error.what, where=where, got=error.got) from None

    def given(self) -> dict[str, Any]:
        """Return the options that are not left open."""
        names = Training.__struct_fields__
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def options(self, task: Task) -> Training:
        """Return the options, complete.

        Raises:
            ConfigError: they cannot be meant together.
            TaskError: what the task offers are not options.
        """
        offered = self.offered(task)
        try:
            msgspec.convert(offered, Training)
        except msgspec.ValidationError as error:
            raise TaskError(f"training options of the task: {error}", where=task.name) from None
        try:
            return msgspec.convert({**offered, **self.given()}, Training)
        except msgspec.ValidationError as error:
            raise ConfigError(str(error)) from None

    def trained(
        self, model: Model, floats: Iterable[str], surrogates: Mapping[str, Surrogate], task: Task, context: Context,
        ranges: Mapping[Edge, RangeSurrogate] | None = None, gradients: Mapping[Edge, OfGradient] | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Return floats and buffers after training, by canonical name.

        `surrogates` replace other parameters, `ranges` quantizers of activations, by edge, and what is in `gradients`
        the gradients by activations.
        """
        from featherweight.training.loop import minimise, of_network

        options, original = self.options(task), context.baseline or model
        goal = total([loss.of(model, task, original, context.steps, context.seed) for loss in self.losses])
        objective = of_network(model, task, goal, ranges=ranges, gradients=gradients, seed=context.seed)
        return minimise(
            model, floats, surrogates, objective, options,
            events=context.events, scratch=context.scratch, name=tag(self),
        )  # fmt: skip

    def offered(self, task: Task) -> dict[str, Any]:
        """Return the options that the task offers for those left open here."""
        offered = getattr(task, "training", None) or {}
        return dict(offered) if isinstance(offered, Mapping) else msgspec.to_builtins(offered)


def trainable(model: Model) -> tuple[list[str], list[Note]]:
    """Return the parameters that training may change, and a note for each of the others."""
    from torch import nn

    moves = {name: t.requires_grad for name, t in model.tensors.items() if isinstance(t, nn.Parameter)}
    still = "does not require gradients: not trained"
    notes = [Note("skipped", name, still) for name, trains in moves.items() if not trains]
    return [name for name, trains in moves.items() if trains], notes


class Train(TrainingStep, frozen=True, kw_only=True, tag="train"):
    """Train all parameters as floats, from where they are; encoded tensors are thawed.

    Parameters that do not require gradients stay as they are.
    """

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the trained model."""
        names, notes = trainable(model)
        return model.with_tensors(self.trained(model, names, {}, task, context), notes)


class Finetune(TrainingStep, frozen=True, kw_only=True, tag="finetune"):
    """Continue training from the current weights; the selected tensors train towards a format and end encoded.

    Where activations have quantizers (the step `calibrate`), training runs through them, in the modes of training:
    batch norms need not be folded before, and `fold` keeps what was trained. A method that trains ranges (`lsq`)
    leaves the quantizers that it learned.

    All other tensors train as floats, except encoded ones, which stay as they are. Without a format the step is
    float training of everything that is not encoded.

    The defaults are those of `train`, except: one epoch, no warm-up, and a tenth of the task's learning rate.

    Attributes:
        where: which tensors train towards the format; see `featherweight.selectors`. By default `weights`.
        format: how their numbers are to be written; None: train floats only.
        formats: other formats for some of the tensors, by items of a `where`: 8 bits for the first and the last.
        method: how the weights train towards the format. By default `StraightThrough`.
        coder: how their symbols are written, or `smallest`. By default `Fixed`.
    """

    where: Where | None = None
    format: AnyFormat | None = None
    formats: dict[Item, AnyFormat] = field(default_factory=dict)
    method: AnyMethod | None = None
    coder: AnyCoder | Literal["smallest"] | None = None

    def __post_init__(self) -> None:
        """Refuse options that mean nothing together.

        Raises:
            ConfigError: how to reach a format, without one; or a method that cannot reach it.
        """
        super().__post_init__()
        if self.format is None:
            for name in ("where", "formats", "method", "coder"):
                if getattr(self, name):
                    raise ConfigError("means nothing without a format", where=f"{tag(self)}.{name}")
            return
        if self.weights is not None:
            hint = "`method` says what trains; round without a format, and encode afterwards"
            raise ConfigError("means nothing with a format", where=f"{tag(self)}.weights", hint=hint)
        for format in (self.format, *self.formats.values()):
            if self.method is not None and (reason := self.method.misfit(format)):
                what = f"{tag(self.method)} cannot train {tag(format)}: {reason}"
                raise ConfigError(what, where=f"{tag(self)}.method")

    def offered(self, task: Task) -> dict[str, Any]:
        """Return the task's options, slowed down."""
        offered = super().offered(task)
        return {**offered, "epochs": 1, "warmup": 0.0, "lr": offered.get("lr", Training().lr) / 10}

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with the selected tensors encoded and everything else trained."""
        from featherweight.training.gradients import isolated

        names, notes = trainable(model)
        with isolated():
            formats, more = self.selected(model, names, self.options(task).keep_zeros)
            surrogates = self.surrogates(model, formats)
            ranges = self.ranges(model, task)
            floats = [name for name in names if name not in surrogates and name not in model.weights]
            gradients = self.gradients_of(model, surrogates, task)
            values = self.trained(model, floats, surrogates, task, context, ranges, gradients)
            return self.frozen(model, values, surrogates, ranges, [*notes, *more])

    def frozen(
        self, model: Model, values: Mapping[str, Tensor], surrogates: Mapping[str, Surrogate],
        ranges: Mapping[Edge, RangeSurrogate], notes: Iterable[Note] = (),
    ) -> Model:  # fmt: skip
        """Return the model with what trained: floats and buffers, what surrogates stand in for encoded, quantizers."""
        encoded = {}
        for name, surrogate in surrogates.items():
            with failures(name):
                frozen = surrogate.freeze()
            encoded[name] = recoded(frozen, self.coder or Fixed(), name)
        counted = ", ".join(f"{share:.2%} {what}" for what, share in shares(surrogates.values()).items())
        more = [Note("chose", "weights", f"at the end of training: {counted}")] if counted else []
        left = {name: value for name, value in values.items() if name not in model.weights}
        learned = {**model.activations, **{edge: part.freeze() for edge, part in ranges.items()}}
        return model.with_tensors(left).with_encoded(encoded, [*notes, *more]).with_activations(learned)

    def ranges(self, model: Model, task: Task) -> dict[Edge, RangeSurrogate]:
        """Return what replaces quantizers in training, by edge; the same for the edges that share one."""
        from featherweight.graph.quantizable import tied

        if self.method is None or not model.activations:
            return {}
        groups = tied(model.program(task.example()).graph, model.activations)
        made = [(group, self.method.range(model.activations[group[0]])) for group in groups]
        return {edge: part for group, part in made if part is not None for edge in group}

    def gradients_of(self, model: Model, weights: Collection[str], task: Task) -> dict[Edge, OfGradient]:
        """Return what rounds the gradients by what layers of some weights write, by edge."""
        from featherweight.graph.quantizable import kind

        rounds = self.method.gradient() if self.method else None
        if rounds is None:
            return {}
        nodes = model.program(task.example()).graph.nodes
        layers = [node for node in nodes if kind(node) == "layer" and node.roles.get("weight") in weights]
        return {node.name: rounds for node in layers}

    def surrogates(self, model: Model, formats: Mapping[str, Format]) -> dict[str, Surrogate]:
        """Return what stands in for tensors while they train towards their formats."""
        method = self.method or StraightThrough()
        return {
            name: method.surrogate(model.tensors[name], nearest(model, name, format))
            for name, format in formats.items()
        }

    def selected(
        self, model: Model, names: Collection[str], keep_zeros: bool
    ) -> tuple[dict[str, Format], list[Note]]:
        """Return the format of each selected tensor among `names`; notes on those encoded, and on those left alone.

        Raises:
            ConfigError: nothing but buffers is selected.
            UnsupportedError: zeros are to stay, and the format of a tensor that has some has none.
        """
        from torch import nn

        if self.format is None:
            return {}, []
        formats = formats_of(model, self.where or "weights", self.format, self.formats, tag(self))
        buffers = [name for name in formats if not isinstance(model.tensors[name], nn.Parameter)]
        if buffers == [*formats]:
            raise ConfigError(
                "selects buffers, which do not train", where=f"{tag(self)}.where", got=repr(self.where),
                hint="encode them after training, by the step encode",
            )  # fmt: skip
        left = unfit(model, formats)
        chosen = {name: format for name, format in formats.items() if name in names and name not in left}
        for name, format in chosen.items():
            weight = model.tensors[name]
            zeros = keep_zeros and weight.dim() > 1 and bool((weight == 0).any())
            if zeros and nearest(model, name, format).spec.zero is None:
                raise UnsupportedError(
                    f"keep_zeros: {tag(format)} has no exact zero to keep", where=name,
                    hint="prune whole channels (step prune), or leave keep_zeros out",
                )  # fmt: skip
        had = {name: tag(model.weights[name].format) for name in chosen if name in model.weights}
        return chosen, [
            *(Note("skipped", name, "a buffer: does not train, not encoded") for name in buffers),
            *(Note("skipped", name, f"trained as float, not encoded: {why}") for name, why in left.items()),
            *(Note("thawed", name, f"trained on from its {format} values") for name, format in had.items()),
        ]


class Load(Step, frozen=True, kw_only=True, tag="load"):
    """Replace the network's weights by those of a file; encoded tensors are thawed.

    The file has to hold every floating-point tensor of the network, by name and shape, and nothing else; tied
    tensors once or several times. Counters (`num_batches_tracked`) may be missing. Floating-point types are
    converted to the network's.

    Attributes:
        file: a `.safetensors` file, or a `.fw` file of a network of the same structure.
        sha256: what the bytes of the file have to hash to, so that a recipe always means the same weights.
    """

    file: Annotated[str, msgspec.Meta(min_length=1)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with these weights."""
        from featherweight.weights import fitting, read

        return model.with_tensors(fitting(read(Path(self.file), self.sha256), model, self.file))
