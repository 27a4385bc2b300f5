"""The step `stages`: a network compressed part by part, each trained to compute what the float network does there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from featherweight.activations import Quantizer, ends
from featherweight.events import Finished, Note, Progress, Started
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Item
from featherweight.techniques.encode import formats_of, nearest
from featherweight.techniques.training import Finetune, trainable
from featherweight.training.losses import AfterStep, InFile, Original

if TYPE_CHECKING:

    from torch import nn

    from featherweight.graph.graph import Edge
    from featherweight.graph.stages import Stage
    from featherweight.model import Model
    from featherweight.training.reconstruction import Lesson

MOST_LAYERS = 12  # of a module that is one block


class Stages(Finetune, frozen=True, kw_only=True, omit_defaults=True, tag="stages"):
    """Compress a network stage by stage, in order of execution: each is trained to compute what a teacher does there.

    A stage trains alone, on features that were computed once, and reads no labels. Its loss is the mean squared error
    of what it ends in, over the variance of that. What `finetune` says of formats, methods, floats and quantizers of
    activations holds here for each stage; the network computes as at inference: fold batch norms before. A tensor or a
    quantizer that several stages read trains in the first of them.

    Some samples are held out. A stage that is worse on them after training than rounded to nearest stays as that; one
    whose error is above `tolerance` trains again, twice as long. A note for each stage gives its error on them, and how
    far the whole network has come: its answers on them against the teacher's, with later stages as they were before.

    References: Elthakeb, Pilligundla, Cloninger, Esmaeilzadeh, Divide and conquer: leveraging intermediate feature
    representations for quantized training of neural networks, 2020, arXiv 1906.06033 (`inputs = "float"`); Li et al.,
    BRECQ: pushing the limit of post-training quantization by block reconstruction, 2021, arXiv 2102.05426; Wei et al.,
    QDrop, 2022, arXiv 2203.05740.

    Attributes:
        by: where to cut: between blocks (`block`), around each `layer`, or the edges that stages end in.
        inputs: of a stage: as the stages before it compute them now (`compressed`), or as the teacher does (`float`):
            then stages do not depend on each other.
        drop: probability with which each number of the inputs is the teacher's, drawn anew in each step.
        samples: inputs of the calibration split to see.
        batch: samples in a step.
        held: share of the samples that is held out.
        tolerance: error of a stage on those that is good enough; None: any.
        again: how often a stage trains anew that is not.
        teacher: the network to learn from: `original`, `step` or `file`. By default the network as it last was with
            nothing encoded, or the original if that has tensors of other shapes.
    """

    needs: ClassVar[Needs] = "unlabelled"
    loss: None = None
    by: Literal["block", "layer"] | Annotated[list[Item], Meta(min_length=1)] = "block"
    inputs: Literal["compressed", "float"] = "compressed"
    drop: Annotated[float, Meta(ge=0, le=1)] = 0.0
    samples: Annotated[int, Meta(ge=1)] = 1024
    batch: Annotated[int, Meta(ge=1)] = 32
    held: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    tolerance: Annotated[float, Meta(gt=0)] | None = None
    again: Annotated[int, Meta(ge=0)] = 2
    teacher: Original | AfterStep | InFile | None = None

    def offered(self, task: Task) -> dict[str, Any]:
        """Return options that suit short trainings of small parts; what the task offers is of whole networks."""
        return {"epochs": 20, "optimizer": "adam", "lr": 1e-3}

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with its stages trained."""
        from featherweight.training.gradients import isolated

        with isolated():
            return Staged(self, model, task, context).run()

    def taught_by(self, model: Model, task: Task, context: Context) -> Model:
        """Return the teacher."""
        from featherweight.model import Model as Network

        if self.teacher is not None:
            return Network.of(self.teacher.module(task, context.baseline or model, context.steps))
        before, original = context.uncoded or model, context.baseline or model
        shapes = [
            {n: t.shape for n, t in network.tensors.items() if t.dim() > 1} for network in (before, original)
        ]
        return before if shapes[0] == shapes[1] else original


class Staged:
    """A network on its way through its stages."""

    def __init__(self, step: Stages, model: Model, task: Task, context: Context) -> None:
        from featherweight.graph.stages import stages_of
        from featherweight.training.quantizers import rounding
        from featherweight.training.reconstruction import batches_of, walk

        self.step, self.model, self.task, self.context = step, model, task, context
        self.names, self.notes = trainable(model)
        self.formats = (
            formats_of(model, step.where or "weights", step.format, step.formats, "stages")
            if step.format
            else {}
        )
        self.done = set[str]()
        graph = model.program(task.example()).graph
        self.stages = stages_of(graph, step.by, blocks_of(model.module) if step.by == "block" else ())
        self.teacher = step.taught_by(model, task, context)
        inputs = batches_of(model, task, step.samples, step.batch, context.seed)
        held = min(len(inputs) - 1, max(1, round(step.held * len(inputs)))) if step.held else 0
        self.held = held * len(next(iter(inputs[0].values())))
        within = {edge for stage in self.stages for edge in quantizers_in(stage, model.activations)}
        self.live: dict[Edge, Quantizer] = {
            edge: quantizer for edge, quantizer in model.activations.items() if edge not in within
        }
        folder = context.scratch
        self.own = walk(model, task, inputs, lambda edge, x: rounding(self.live, {}, {})(edge, x), folder)
        self.theirs = walk(self.teacher, task, inputs, None, folder)
        self.answers = self.theirs.outputs(self.held)

    def run(self) -> Model:
        """Train one stage after the other; return the model with all of them."""
        events = self.context.events
        events(Started("stages", len(self.stages)))
        for place, stage in enumerate(self.stages):
            lesson = self.lesson(place, floats=self.step.inputs == "float")
            self.model, before, after = self.trained(lesson, stage)
            self.take(stage)
            apart, agreed = self.so_far()
            said = f"error {before:.3g} rounded, {after:.3g} trained; network {apart:.3g} from the teacher"
            said += "" if agreed is None else f", agreement {agreed:.1%}"
            self.notes.append(Note("chose", stage.name, said))
            figures = {"error": after, "apart": apart} | ({} if agreed is None else {"agreement": agreed})
            events(Progress("stages", place + 1, figures))
        events(Finished("stages", 0.0))
        return self.model.with_notes(dict.fromkeys(self.notes))

    def lesson(self, place: int, *, floats: bool) -> Lesson:
        """Return what a stage is taught, with the features of what comes before it as they are, or in the teacher."""
        from featherweight.training.reconstruction import Lesson, Stretch, seen_by, targets_of

        own, theirs, stage = self.own, self.theirs, self.stages[place]
        last = stage.targets == own.program.graph.outputs
        stretch = Stretch.of(own.execution, stage, last)
        own.to(stretch.start)
        inputs = own.features.only(own.execution.kept(own.features.values, stretch.start, stretch.stop))
        taught = seen_by(inputs, own, theirs) if floats or self.step.drop else None
        if floats and taught is not None:
            inputs, taught = taught, None
        return Lesson(
            stretch, inputs, taught, targets_of(stage, last, own, theirs), self.held, self.step.drop
        )

    def trained(self, lesson: Lesson, stage: Stage) -> tuple[Model, float, float]:
        """Return the model with a stage trained, and the stage's error rounded to nearest, and trained."""
        from featherweight.capture.execution import Execution
        from featherweight.graph.quantizable import tied
        from featherweight.training.loop import minimise
        from featherweight.training.quantizers import rounding

        step, model, context = self.step, self.model, self.context
        names = [name for name in stage.tensors if name in self.names and name not in self.done]
        here = quantizers_in(stage, model.activations)
        options = step.options(self.task)
        surrogates, notes = step.surrogates(model, names, options.keep_zeros) if names else ({}, [])
        self.notes += notes
        rounded = model.with_encoded({name: nearest(model, name, self.formats[name]) for name in surrogates})

        def execution(ranges: Mapping[Edge, Any]) -> Execution:
            visit = rounding(model.activations, ranges, {})
            reads = [edge for edge in model.activations if ends(edge)[1]]
            return Execution(self.own.program, visit, reads=reads, grad=True)

        best, least = (
            rounded,
            replace(lesson, stretch=replace(lesson.stretch, execution=execution({}))).error(
                dict(rounded.tensors)
            ),
        )
        before = least
        floats = [name for name in names if name not in surrogates and name not in model.weights]
        for attempt in range(step.again + 1):
            if not (floats or surrogates):
                break
            surrogates = step.surrogates(model, names, options.keep_zeros)[0] if attempt else surrogates
            groups = [group for group in tied(self.own.program.graph, model.activations) if {*group} & here]
            made = [
                (group, step.method.range(model.activations[group[0]]) if step.method else None)
                for group in groups
            ]
            ranges = {
                edge: part
                for group, part in made
                if part is not None
                for edge in group
                if edge not in self.live
            }
            taught = replace(lesson, stretch=replace(lesson.stretch, execution=execution(ranges)))
            objective = taught.objective(f"{self.task.name}, {stage.name}", ranges, context.seed)
            longer = msgspec.structs.replace(options, epochs=options.epochs * 2**attempt)
            scratch = context.scratch and context.scratch / f"{self.stages.index(stage)}-{attempt}"
            values = minimise(
                model,
                floats,
                surrogates,
                objective,
                longer,
                scratch=scratch,
                name=stage.name,
                events=context.events,
            )
            found = step.frozen(model, values, surrogates, ranges)
            fresh = Execution(
                self.own.program, rounding(found.activations, {}, {}),
                reads=[edge for edge in found.activations if ends(edge)[1]],
            )  # fmt: skip
            error = replace(lesson, stretch=replace(lesson.stretch, execution=fresh)).error(
                dict(found.tensors)
            )
            if error < least:
                best, least = found, error
            if step.tolerance is None or least <= step.tolerance:
                break
        return best, before, least

    def take(self, stage: Stage) -> None:
        """Let the network go on with a stage as it is now."""
        self.done |= {*stage.tensors}
        self.own.tensors.update({name: self.model.tensors[name].detach() for name in stage.tensors})
        self.live |= {
            edge: self.model.activations[edge] for edge in quantizers_in(stage, self.model.activations)
        }

    def so_far(self) -> tuple[float, float | None]:
        """Return `apart` of the network's answers and the teacher's on the samples held out."""
        from featherweight.training.reconstruction import apart

        return apart(self.task, self.own.outputs(self.held), self.answers)


def quantizers_in(stage: Stage, activations: Mapping[Edge, Quantizer]) -> set[Edge]:
    """Return the quantizers of what a stage computes, and of what its layers read for themselves."""
    nodes = {*stage.nodes}
    return {edge for edge in activations if (ends(edge)[1] or edge) in nodes}


def blocks_of(module: nn.Module) -> list[str]:
    """Return the paths of the modules of 2 to `MOST_LAYERS` layers that are in no other such, and no sequence."""
    from torch import nn

    def layers(part: nn.Module) -> int:
        return sum(1 for m in part.modules() if (w := getattr(m, "weight", None)) is not None and w.dim() > 1)

    found: list[str] = []
    for path, part in module.named_modules():
        if (
            not path
            or isinstance(part, nn.Sequential | nn.ModuleList)
            or any(path.startswith(f"{p}.") for p in found)
        ):
            continue
        if 2 <= layers(part) <= MOST_LAYERS:
            found.append(path)
    return found
