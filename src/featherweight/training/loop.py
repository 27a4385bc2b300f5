"""The training loop: gradient descent on an objective; resumable, and its network is left as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from featherweight.data.indexed import number
from featherweight.errors import TaskError, UnsupportedError
from featherweight.events import Events, Finished, Progress, Started, silent
from featherweight.model import Model
from featherweight.task import Batch, Task
from featherweight.task.protocol import failures, known_length
from featherweight.task.samples import seed_generators, seeded
from featherweight.task.sampling import odd_samples
from featherweight.task.training import Training, learning_rate
from featherweight.training.gradients import isolated
from featherweight.training.methods.base import Surrogate
from featherweight.training.objective import Loss, Objective, of_network
from featherweight.training.state import Checkpoint, Position, State, run_key

REPORT_STEPS = 50
SLOWER = "try a lower lr, warmup, or clip"
_END = object()


def fit(
    model: Model,
    floats: Iterable[str],
    surrogates: Mapping[str, Surrogate],
    task: Task,
    options: Training,
    *,
    loss: Loss | None = None,
    seed: int = 0,
    events: Events = silent,
    scratch: Path | None = None,
    save_seconds: float = 20.0,
    name: str = "train",
) -> dict[str, Tensor]:
    """Train a whole network on a task's training split; `minimise` tells of the other arguments.

    The task gives the batches, and the loss unless `loss` is given, a scalar of (output, batch). `seed` is that of
    shuffling, augmentation and dropout.
    """
    return minimise(
        model, floats, surrogates, of_network(model, task, loss, seed=seed), options,
        events=events, scratch=scratch, save_seconds=save_seconds, name=name,
    )  # fmt: skip


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
        events: hears the mean loss every 50 steps.
        scratch: folder for checkpoints; None: none are written.
        save_seconds: time between checkpoints.
        name: what events call this work.

    Raises:
        UnsupportedError: there is nothing to train.
        TaskError: no batches, a loss that is not a finite scalar of the trained parameters, or a tensor that
            is no longer finite.
    """
    began = time.monotonic()
    floats = list(floats)
    if not (floats or surrogates):
        raise UnsupportedError(
            "nothing is left to train", where=name,
            hint="every parameter is encoded already, or does not require gradients (requires_grad_(True))",
        )  # fmt: skip
    with isolated():
        state = State.of(model, floats, surrogates, options)
        checkpoint = None
        if scratch:
            key = run_key(options, objective.seed, state)
            checkpoint = Checkpoint(scratch / "training.safetensors", key)
        watch = Watch(name, options.epochs, events)
        for position, length, batch in steps(
            objective, state, options.epochs, checkpoint, save_seconds, events
        ):
            epoch = position.epoch + min((position.batch + 0.5) / length, 1.0)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                values = state.values()
                value = objective.loss(objective.forward(values, batch), batch)
            state.buffers.update((name, values[name].detach()) for name in state.buffers)
            loss_now = check_loss(value, objective.name, position, batch)
            descend(state, value, options, epoch, position.taken + 1)
            watch.stepped(position, length, loss_now)
    tensors = model.tensors
    check_finite((key, new) for key, new in state.buffers.items() if key in tensors and finite(tensors[key]))
    events(Finished(name, time.monotonic() - began))
    return {
        key: tensor.detach() for key, tensor in {**state.floats, **state.buffers}.items() if key in tensors
    }


def steps(
    objective: Objective,
    state: State,
    epochs: int,
    checkpoint: Checkpoint | None = None,
    save_seconds: float = 20.0,
    events: Events = silent,
) -> Iterator[tuple[Position, int, Batch]]:
    """Yield position, number of batches in the epoch, and batch of every step that is still to be taken.

    A checkpoint is written before a step, never after the last one: what follows the last step is not
    repeated. Batches without a length are counted by reading the first epoch once more, because the learning rate
    changes with every step. What a loader and what training (dropout) draw from torch's generator are separate
    streams: a resumed run reads the batches it has already taken without training on them, and sees the same of
    both.

    Args:
        objective: gives the batches, and the seed of the run.
        state: what training changes; a checkpoint restores it.
        epochs: how many.
        checkpoint: where the run is saved to and restored from; None: nowhere.
        save_seconds: time between checkpoints.
        events: hears of a checkpoint that cannot be used.
    """
    resumed = checkpoint.restore(state, events) if checkpoint else None
    start, generator = resumed or (Position(), None)
    taken, saved, counted, seed = start.taken, time.monotonic(), 0, objective.seed
    for epoch in range(start.epoch, epochs):
        seed_generators(number(seed, epoch))
        batches = objective.batches(epoch)
        length, count = known_length(batches) or counted or count_batches(objective), 0
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


def count_batches(objective: Objective) -> int:
    """Return the number of batches of the first epoch by reading them."""
    with seeded(objective.seed, 0):
        return sum(1 for _ in objective.batches(0))


def drawing_apart(batches: Iterable[Batch], seed: int) -> Iterator[Batch]:
    """Yield batches; what making them draws from torch's generator comes from a stream of its own, seeded here."""
    outside = torch.get_rng_state()
    torch.manual_seed(seed)
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


def descend(state: State, loss: Tensor, options: Training, epoch: float, step: int) -> None:
    """Take one step down the gradient of `loss`, which was computed `epoch` epochs after the start.

    Raises:
        TaskError: it ends in a tensor that is not finite.
    """
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(options, epoch) * group["lr_scale"]
    for surrogate in state.surrogates.values():
        loss = loss + surrogate.penalty(epoch / options.epochs)
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if options.clip is not None:
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, options.clip)
    state.optimizer.step()
    check_finite(state.trained())
    with torch.no_grad():
        for name, surrogate in state.surrogates.items():
            with failures(name):
                surrogate.after_step(step)


def check_loss(value: Tensor, where: str, position: Position, batch: Batch) -> float:
    """Return the loss of a batch as a number.

    Args:
        value: the loss.
        where: name of the objective.
        position: of the step.
        batch: that it is of.

    Raises:
        TaskError: it is not a finite scalar that depends on what is trained.
    """
    if not isinstance(value, Tensor) or value.numel() != 1 or value.dim() > 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TaskError("the loss is not a scalar", where=where, got=got, hint="take the mean over the batch")
    if not value.requires_grad:
        hint = "look for detach(), no_grad() or argmax"
        raise TaskError("the loss does not depend on what is trained", where=where, hint=hint)
    found = float(value.detach())
    if not math.isfinite(found):
        odd = odd_samples(batch)
        raise TaskError(
            "the loss is not finite", where=where,
            got=f"{found} in epoch {position.epoch}, step {position.batch}",
            hint=f"sample {odd[0]} of the batch holds NaN or infinity: mend it, or leave it out" if odd else SLOWER,
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


class Watch:
    """Tells `events` the mean loss every so many steps."""

    def __init__(self, name: str, epochs: int, events: Events) -> None:
        self.name, self.epochs, self.events = name, epochs, events
        self.losses: list[float] | None = None

    def stepped(self, position: Position, length: int, loss: float) -> None:
        """Count one step."""
        if self.losses is None:
            self.events(Started(self.name, self.epochs * length))
            self.losses = []
        self.losses.append(loss)
        done = position.taken + 1
        if done % REPORT_STEPS == 0 or position.batch + 1 == length:
            mean = sum(self.losses) / len(self.losses)
            self.events(Progress(self.name, done, {"loss": mean, "epoch": position.epoch + 1}))
            self.losses.clear()
