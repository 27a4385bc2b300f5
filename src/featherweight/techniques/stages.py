"""The step `stages`: a network compressed part by part, each trained to compute what the float network does there."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from featherweight.events import Finished, Note, Progress, Started
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Item
from featherweight.techniques.encode import nearest
from featherweight.techniques.training import Finetune, trainable
from featherweight.training.losses import AfterStep, InFile, Original

if TYPE_CHECKING:
    from featherweight.model import Model


class Stages(Finetune, frozen=True, kw_only=True, omit_defaults=True, tag="stages"):
    """Compress a network stage by stage, in order of execution: each is trained to compute what a teacher does there.

    A stage trains alone, on features that were computed once, and reads no labels. Its loss is the mean squared error
    of what it ends in, over the variance of that. What `finetune` says of formats, methods, floats and quantizers of
    activations holds here for each stage. Batch norms that are not folded train, everything else computes as at
    inference. A tensor or a quantizer that several stages read trains in the first of them.

    Where the teacher has other channels, as before pruning, no stage ends: it goes on to where both have the same.

    Some samples are held out. A stage that is worse on them after training than rounded to nearest stays as that; one
    whose error is above `tolerance` is trained again from the start, twice as long. A note for each stage gives its
    error on them, and how far the whole network has come: its answers on them against the teacher's, with later stages
    as they were before.

    References: Elthakeb, Pilligundla, Cloninger, Esmaeilzadeh, Divide and conquer: leveraging intermediate feature
    representations for quantized training of neural networks, 2020, arXiv 1906.06033 (`inputs = "float"`); Li et al.,
    BRECQ: pushing the limit of post-training quantization by block reconstruction, 2021, arXiv 2102.05426; Wei et al.,
    QDrop, 2022, arXiv 2203.05740.

    Attributes:
        by: where to cut: between blocks (`block`), around each `layer`, or the edges that stages end in.
        inputs: of a stage: as the stages before it compute them now (`compressed`), or as the teacher does (`float`):
            then stages do not depend on each other.
        drop: probability that a number of the inputs is the teacher's; drawn in each step of training.
        samples: inputs of the calibration split to see.
        batch: samples in a step.
        held: share of the samples that is held out.
        tolerance: greatest error of a stage on those that is accepted; None: any.
        again: how many more trainings a stage has to get there.
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
        from featherweight.techniques.staged import Question, Staged, known_as, trained_stage
        from featherweight.training.gradients import isolated
        from featherweight.training.reconstruction import apart
        from featherweight.workspace import Workspace

        moves, notes = trainable(model)
        formats, more = self.selected(model, moves, self.options(task).keep_zeros)
        events, notes = context.events, [*notes, *more]
        teacher = self.taught_by(model, task, context)
        workspace = Workspace(task, context.seed, context.threads, events=events)
        with isolated():
            staged = Staged(self, (model, teacher), workspace, context.scratch)
            answers = staged.theirs.outputs(staged.held)
            questions = [Question(self, place, cost) for place, cost in enumerate(staged.costs)]
            here, known = dataclasses.replace(context, executor=None), {known_as(self): staged}
            at_once = context.answers(trained_stage, task, (model, teacher), questions)
            events(Started("stages", len(questions)))
            for place, question in enumerate(questions):
                in_turn = here.answers(trained_stage, task, (staged.model, teacher), [question], known)
                staged.take(place, next(at_once if self.inputs == "float" else in_turn))
                far, agreed = apart(task, staged.so_far(place), answers)
                figures = {"apart": far} | ({} if agreed is None else {"agreement": agreed})
                events(Progress("stages", place + 1, figures))
                said = f"the network so far is {far:.3g} from its teacher"
                said += "" if agreed is None else f", {agreed:.1%} of answers agree"
                notes.append(Note("chose", staged.stages[place].name, said))
            events(Finished("stages", 0.0))
        staged_names = {name for stage in staged.stages for name in stage.tensors}
        rest = {
            name: nearest(model, name, format) for name, format in formats.items() if name not in staged_names
        }
        notes += [Note("chose", name, "rounded to nearest: in no stage") for name in rest]
        if (seen := staged.own.features.samples) < self.samples:
            notes.append(Note("chose", "calibration", f"only {seen} inputs of the {self.samples} asked for"))
        return staged.model.with_encoded(rest, notes)

    def taught_by(self, model: Model, task: Task, context: Context) -> Model:
        """Return the teacher."""
        if self.teacher is not None:
            return self.teacher.model(task, context.baseline or model, context.steps)
        before, original = context.uncoded or model, context.baseline or model
        shapes = [
            {n: t.shape for n, t in network.tensors.items() if t.dim() > 1} for network in (before, original)
        ]
        return before if shapes[0] == shapes[1] else original
