"""The training loop: gradient descent on an objective; resumable, and its network is left as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from featherweight.activations import ends
from featherweight.capture.memory_format import channels_last, trains_channels_last
from featherweight.data.indexed import number
from featherweight.errors import ConfigError, TaskError, UnsupportedError
from featherweight.events import Events, Finished, Progress, Started, silent
from featherweight.graph.graph import Edge
from featherweight.model import Model, share
from featherweight.task import Batch, Output, Task, call
from featherweight.task.protocol import Guarded, failures, known_length
from featherweight.task.samples import mapped, seed_generators, seeded
from featherweight.task.sampling import odd_samples
from featherweight.task.training import Training, learning_rate
from featherweight.training.gradients import isolated
from featherweight.training.losses.base import Goal
from featherweight.training.methods.base import OfGradient, RangeSurrogate, Surrogate, Trained, shares
from featherweight.training.quantizers import rounding
from featherweight.training.scaling import WIDER
from featherweight.training.state import Checkpoint, Position, State, places, run_key
from featherweight.training.watched import Watched

Values = dict[str, Tensor]
Loss = Callable[[Output, Batch], Tensor]

REPORT_STEPS = 50
LARGEST = torch.finfo(torch.float32).max
SLOWER = "try a lower lr, warmup, or clip"
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_END = object()


@dataclass(frozen=True)
class Objective:
    """A loss as a function of a network's tensors; the loop knows nothing else of what it trains.

    Attributes:
        name: what errors call it.
        batches: of an epoch, given its number.
        forward: what is computed of a batch with these values of all tensors of the network, by canonical name;
            buffers that it moves on (running statistics) it puts into the values.
        loss: scalar of (output, batch).
        seed: of shuffling, augmentation and dropout.
        parts: what else trains in `forward` and `loss`, by names that checkpoints know: `range/` and one of the edges
            of what stands in for a quantizer; `loss/` and the name of what trains for the loss alone.
    """

    name: str
    batches: Callable[[int], Iterable[Batch]]
    forward: Callable[[Values, Batch], Output]
    loss: Loss
    seed: int = 0
    parts: Mapping[str, Trained] = field(default_factory=dict)


def of_network(
    model: Model, task: Task, goal: Goal | None = None, *,
    ranges: Mapping[Edge, RangeSurrogate] | None = None, gradients: Mapping[Edge, OfGradient] | None = None,
    seed: int = 0,
) -> Objective:  # fmt: skip
    """Return the loss of a whole network, in training mode, on the training split of a task.

    One whose activations have quantizers is computed through them, on the edges of its graph; so is one whose
    activations a loss reads.

    Args:
        model: the network; it stays as it is.
        task: gives the batches, and the loss unless `goal` is given.
        goal: the loss.
        ranges: what trains in the place of quantizers, by edge; edges that share one have the same object.
        gradients: what rounds the gradients by activations, by edge.
        seed: of shuffling, augmentation and dropout.

    Raises:
        TaskError: the network fails on the task's example.
        UnsupportedError: activations have quantizers or are read, and the network cannot be captured in training mode.
    """
    goal = goal or Goal(lambda output, batch, features: task.loss(output, batch))
    if model.activations or gradients or goal.edges:
        return on_edges(model, task, goal, ranges or {}, gradients or {}, seed)
    where = f"{task.name}, network"
    with isolated(), failures(where):
        last = trains_channels_last(model.module, task.example())
    module, (slots, _) = share(model.module).train(), places(model)

    def forward(values: Values, batch: Batch) -> Output:
        named = {slot: values[name] for slot, name in slots.items()}
        with failures(where):
            inputs = task.inputs(batch)
            output = call(
                lambda *args, **kwargs: functional_call(module, named, args, kwargs, tie_weights=False),
                mapped(channels_last, inputs) if last else inputs,
            )
        # Most networks write into a buffer; some put a new one in its place.
        values.update((name, named[slot]) for slot, name in slots.items())
        return output

    def loss(output: Output, batch: Batch) -> Tensor:
        return goal.value(output, batch, {})

    return Objective(task.name, partial(train_batches, task, seed), forward, loss, seed, of_loss(goal))


def of_loss(goal: Goal) -> dict[str, Trained]:
    """Return what trains for a loss alone, by names that checkpoints know."""
    return {f"loss/{name}": part for name, part in goal.parts.items()}


def train_batches(task: Task, seed: int, epoch: int) -> Iterable[Batch]:
    """Return the batches of an epoch of the training split."""
    return Guarded(f"{task.name}, train split", task.batches("train", seed=seed, epoch=epoch))


def on_edges(
    model: Model, task: Task, goal: Goal, ranges: Mapping[Edge, RangeSurrogate],
    gradients: Mapping[Edge, OfGradient], seed: int,
) -> Objective:  # fmt: skip
    """Return what `of_network` does with activations: of a network captured in training mode, operator by operator."""
    where = f"{task.name}, network"
    program = model.program(task.example()).training(share(model.module).train())
    reads = [edge for edge in model.activations if ends(edge)[1]]
    visit = rounding(model.activations, ranges, gradients)
    watched = Watched(program, goal.edges, visit, reads=reads, grad=True)
    if gone := sorted({*model.activations, *gradients} - watched.edges):
        hint = "leave what reads it in float: keep_float of the step calibrate"
        raise UnsupportedError("has a quantizer, and is not computed in training", where=gone[0], hint=hint)

    def forward(values: Values, batch: Batch) -> tuple[Output, Values]:
        with failures(where):
            return watched(task.inputs(batch), values)

    def loss(found: tuple[Output, Values], batch: Batch) -> Tensor:
        return goal.value(found[0], batch, found[1])

    parts = of_ranges(ranges) | of_loss(goal)
    return Objective(task.name, partial(train_batches, task, seed), forward, loss, seed, parts)


def of_ranges(ranges: Mapping[Edge, RangeSurrogate]) -> dict[str, Trained]:
    """Return what trains in the place of quantizers once, by names that checkpoints know: of the first of its edges."""
    own = {id(part): (edge, part) for edge, part in sorted(ranges.items(), reverse=True)}
    return {f"range/{edge}": part for edge, part in own.values()}


def minimise(
    model: Model,
    floats: Iterable[str],
    surrogates: Mapping[str, Surrogate],
    objective: Objective,
    options: Training,
    *,
    events: Events = silent,
    scratch: Path | None = None,
    save_seconds: float = 20.0,
    name: str = "train",
) -> dict[str, Tensor]:
    """Train tensors, and return the trained floats and the buffers by canonical name; `model` stays as it is.

    The result is a function of the arguments, the thread count and the versions: torch's generator is
    seeded by (seed, epoch) and put back afterwards, and a killed run that starts again with the same
    `scratch` goes on from its last checkpoint to the same bytes.

    Args:
        model: where training starts; tensors not named below stay as they are.
        floats: canonical names of the parameters that train as they are.
        surrogates: replace other parameters; made for this run, trained in place.
        objective: what training minimises.
        options: how long and how fast.
        events: hears the mean loss every 50 steps; of weights kept on a grid, how many saturated in a step; in
            float16, the scale of the loss; and what surrogates count (`shares`).
        scratch: folder for checkpoints; None: none are written.
        save_seconds: time between checkpoints.
        name: what events call this work.

    Raises:
        UnsupportedError: there is nothing to train.
        TaskError: no batches, a loss that is not a finite scalar of the trained parameters, or a tensor that
            is no longer finite.
    """
    began, floats, losses = time.monotonic(), list(floats), list[float]()
    if not (floats or surrogates):
        raise UnsupportedError(
            "nothing is left to train", where=name,
            hint="every parameter is encoded already, or does not require gradients (requires_grad_(True))",
        )  # fmt: skip
    with isolated():
        state = State.of(model, floats, surrogates, objective.parts, options)
        state.round_weights(options.weights, number(objective.seed, 0, 0))
        file = scratch / "training.safetensors" if scratch else None
        checkpoint = Checkpoint(file, run_key(options, objective.seed, state)) if file else None
        following = steps(objective, state, options.epochs, checkpoint, save_seconds, events)
        beyond = 0
        for begun, (position, length, batch) in enumerate(following):
            epoch = position.epoch + min((position.batch + 0.5) / length, 1.0)
            value = loss_of(objective, state, batch, options)
            losses.append(
                check_loss(value, objective.name, position, batch, WIDER if state.scale else SLOWER)
            )
            done = position.taken + 1
            beyond += descend(state, value, options, epoch, done, objective.seed)
            if not begun:
                events(Started(name, options.epochs * length))
            if done % REPORT_STEPS == 0 or position.batch + 1 == length:
                figures = {"loss": sum(losses) / len(losses), "epoch": position.epoch + 1}
                if options.weights:
                    figures["saturated"] = beyond / len(losses)
                if state.scale:
                    figures["scale"] = state.scale.value
                figures |= shares(state.parts.values())
                events(Progress(name, done, figures))
                losses.clear()
                beyond = 0
    kept = {key: tensor for key, tensor in {**state.floats, **state.buffers}.items() if key in model.tensors}
    check_finite((key, kept[key]) for key in state.buffers if key in kept and finite(model.tensors[key]))
    events(Finished(name, time.monotonic() - began))
    return {key: tensor.detach() for key, tensor in kept.items()}


def steps(
    objective: Objective, state: State, epochs: int, checkpoint: Checkpoint | None, save_seconds: float, events: Events
) -> Iterator[tuple[Position, int, Batch]]:  # fmt: skip
    """Yield position, number of batches in the epoch, and batch of every step that is still to be taken.

    A checkpoint is written before a step, never after the last one: what follows the last step is not
    repeated. Batches without a length are counted by reading the first epoch once more, because the learning rate
    changes with every step. What a loader and what training (dropout) draw from torch's generator are separate
    streams: a resumed run reads the batches it has already taken without training on them, and sees the same of
    both.
    """
    resumed = checkpoint.restore(state, events) if checkpoint else None
    start, generator = resumed or (Position(), None)
    taken, saved, counted, seed = start.taken, time.monotonic(), 0, objective.seed
    for epoch in range(start.epoch, epochs):
        seed_generators(number(seed, epoch))
        batches = objective.batches(epoch)
        length, count = known_length(batches) or counted, 0
        if not length:
            with seeded(seed, 0):
                length = sum(1 for _ in objective.batches(0))
        counted = length
        for count, batch in enumerate(drawing_apart(batches, number(seed, epoch, 1)), 1):
            position = Position(epoch, count - 1, taken)
            if position < start:
                continue
            if generator is not None:
                torch.set_rng_state(generator)
                generator = None
            if checkpoint and position > start and time.monotonic() - saved >= save_seconds:
                checkpoint.save(state, position)
                saved = time.monotonic()
            yield position, length, batch
            taken += 1
        if not count:
            raise TaskError(
                "the training split has no batches", where=objective.name, got=f"none in epoch {epoch}",
                hint="batches() returns an iterator that was read before: return a new one at each call"
                if length else "",
            )  # fmt: skip


def drawing_apart(batches: Iterable[Batch], seed: int) -> Iterator[Batch]:
    """Yield batches; what making them draws from torch's generator comes from a stream of its own, seeded here."""
    outside = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    iterator = iter(batches)
    while True:
        batch = next(iterator, _END)
        inside = torch.get_rng_state()
        torch.set_rng_state(outside)
        if batch is _END:
            return
        yield batch
        outside = torch.get_rng_state()
        torch.set_rng_state(inside)


def loss_of(objective: Objective, state: State, batch: Batch, options: Training) -> Tensor:
    """Return the loss of a batch as the state is now, in the precision of `options`; the buffers move on."""
    half = HALVES.get(options.precision)
    with torch.autocast("cpu", half, enabled=half is not None):
        values = state.values()
        output = objective.forward(values, batch)
        loss = objective.loss(tree_map_only(Tensor, whole, output) if half else output, batch)
    state.buffers.update((key, values[key].detach()) for key in state.buffers)
    return loss


def descend(state: State, loss: Tensor, options: Training, epoch: float, step: int, seed: int) -> int:
    """Take one step down the gradient of `loss`, and return how many weights were beyond the grid they are kept on.

    What is rounded is rounded by random numbers of this step alone, so that a resumed run draws the same. In float16 a
    step whose gradients overflow is left out.

    Args:
        state: changed in place.
        loss: scalar.
        options: of the training.
        epoch: how many epochs after the start, a fraction included.
        step: number of this step, from 1.
        seed: of the training.

    Raises:
        TaskError: training diverges.
        ConfigError: a learning rate is beyond float32.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(options, epoch) * group["lr_scale"]
        if group["lr"] > LARGEST:
            raise ConfigError("beyond float32", where="lr", got=f"{options.lr:g} times {group['lr_scale']:g}")
    for part in state.parts.values():
        loss = loss + part.penalty(epoch / options.epochs)
    return update(state, options, step, seed) if backward(state, loss, options, step, seed) else 0


def backward(state: State, loss: Tensor, options: Training, step: int, seed: int) -> bool:
    """Leave the gradients of `loss` with the parameters, unscaled and rounded; return False if they overflow float16.

    Arguments as of `descend`.
    """
    state.optimizer.zero_grad()
    (loss * state.scale.value if state.scale else loss).backward()  # type: ignore[no-untyped-call]
    if state.scale and not state.scale.unscale(p.grad for p in state.parameters() if p.grad is not None):
        return False
    state.round_gradients(options.gradients, number(seed, step, 1))
    return True


def update(state: State, options: Training, step: int, seed: int) -> int:
    """Move the parameters by their gradients, as `descend` does."""
    if options.clip is not None:
        nn.utils.clip_grad_norm_(state.parameters(), options.clip)
    state.optimizer.step()
    state.round_moments(options.moments, number(seed, step, 2))
    beyond = state.round_weights(options.weights, number(seed, step, 0))
    check_finite(state.trained())
    with torch.no_grad():
        for name, part in state.parts.items():
            with failures(name.partition("/")[2]):
                part.after_step(step)
    return beyond


def whole(value: Tensor) -> Tensor:
    """Return what was computed in half precision as float32; a loss is computed of that."""
    return value.float() if value.dtype in HALVES.values() else value


def check_loss(value: Tensor, where: str, position: Position, batch: Batch, hint: str = SLOWER) -> float:
    """Return the loss of a batch, or raise `TaskError`: it is not a finite scalar that depends on what is trained."""
    if not isinstance(value, Tensor) or value.numel() != 1 or value.dim() > 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TaskError("the loss is not a scalar", where=where, got=got, hint="take the mean over the batch")
    if not value.requires_grad:
        look = "look for detach(), no_grad() or argmax"
        raise TaskError("the loss does not depend on what is trained", where=where, hint=look)
    found = float(value.detach())
    if not math.isfinite(found):
        odd = odd_samples(batch)
        raise TaskError(
            "the loss is not finite", where=where,
            got=f"{found} in epoch {position.epoch}, step {position.batch}",
            hint=f"sample {odd[0]} of the batch holds NaN or infinity: mend it, or leave it out" if odd else hint,
        )  # fmt: skip
    return found


def check_finite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors that training has driven out of range; TaskError names the first with NaN or infinity."""
    for name, tensor in tensors:
        if not finite(tensor):
            raise TaskError("training has diverged: holds NaN or infinity", where=name, hint=SLOWER)


def finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity."""
    known = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # torch cannot tell of 8 bits
    # A sum is quick, but may overflow.
    return bool(torch.isfinite(known.sum()) or torch.isfinite(known).all())
