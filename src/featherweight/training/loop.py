"""The training loop: gradient descent through `functional_call`; resumable, and its network is left as it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from featherweight.capture.memory_format import channels_last, trains_channels_last
from featherweight.data.indexed import number
from featherweight.errors import TaskError, UnsupportedError
from featherweight.events import Events, Finished, Progress, Started, silent
from featherweight.model import Model, share
from featherweight.task import Batch, Output, Task
from featherweight.task.protocol import Guarded, failures, known_length
from featherweight.task.samples import kept_generators, mapped, seed_generators, seeded
from featherweight.task.training import Training, learning_rate
from featherweight.training.checkpoint import Checkpoint, Position, run_key
from featherweight.training.state import State
from featherweight.training.surrogates.base import Surrogate

Loss = Callable[[Output, Batch], Tensor]
REPORT_STEPS = 50
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
    """Train, and return the trained floats and the buffers by canonical name; `model` stays as it is.

    The result is a function of the arguments, the thread count and the versions: torch's generator is
    seeded by (`seed`, epoch) and put back afterwards, and a killed run that starts again with the same
    `scratch` goes on from its last checkpoint to the same bytes.

    Args:
        model: where training starts; tensors not named below stay as they are.
        floats: canonical names of the parameters that train as they are.
        surrogates: replace other parameters; made for this run, trained in place.
        task: gives the training batches, and the loss unless `loss` is given.
        options: how long and how fast.
        loss: scalar of (output, batch) that training minimises.
        seed: of shuffling, augmentation and dropout.
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
            "nothing is left to train",
            where=name,
            hint="every parameter is encoded already, or does not require gradients (requires_grad_(True))",
        )
    with isolated():
        state = State.of(model, floats, surrogates, options)
        checkpoint = (
            Checkpoint(scratch / "training.safetensors", run_key(options, seed, state)) if scratch else None
        )
        with failures(f"{task.name}, network"):
            last = trains_channels_last(model.module, task.example())
        module = share(model.module).train()
        watch = Watch(name, options.epochs, events)
        for position, length, batch in steps(
            state, task, options.epochs, seed, checkpoint, save_seconds, events
        ):
            epoch = position.epoch + min((position.batch + 0.5) / length, 1.0)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                with failures(f"{task.name}, network"):
                    given = task.inputs(batch)
                    output = state.forward(module, mapped(channels_last, given) if last else given)
                value = (loss or task.loss)(output, batch)
            loss_now = check_loss(value, task.name, position)
            descend(state, value, options, epoch, position.taken + 1)
            watch.stepped(position, length, loss_now)
    tensors = model.tensors
    check_finite((key, new) for key, new in state.buffers.items() if key in tensors and finite(tensors[key]))
    events(Finished(name, time.monotonic() - began))
    return {
        key: tensor.detach() for key, tensor in {**state.floats, **state.buffers}.items() if key in tensors
    }


def steps(
    state: State,
    task: Task,
    epochs: int,
    seed: int,
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
        state: what training changes; a checkpoint restores it.
        task: gives the training batches.
        epochs: how many.
        seed: of the run.
        checkpoint: where the run is saved to and restored from; None: nowhere.
        save_seconds: time between checkpoints.
        events: hears of a checkpoint that cannot be used.
    """
    resumed = checkpoint.restore(state, events) if checkpoint else None
    start, generator = resumed or (Position(), None)
    taken, saved, counted = start.taken, time.monotonic(), 0
    for epoch in range(start.epoch, epochs):
        seed_generators(number(seed, epoch))
        batches = Guarded(f"{task.name}, train split", task.batches("train", seed=seed, epoch=epoch))
        length, count = known_length(batches) or counted or count_batches(task, seed), 0
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
                "the training split has no batches", where=task.name, got=f"none in epoch {epoch}",
                hint="batches() returns an iterator that was read before: return a new one at each call"
                if length else "",
            )  # fmt: skip


def count_batches(task: Task, seed: int) -> int:
    """Return the number of batches of the first epoch by reading them."""
    with seeded(seed, 0):
        batches = task.batches("train", seed=seed, epoch=0)
        return sum(1 for _ in Guarded(f"{task.name}, train split", batches))


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
        for surrogate in state.surrogates.values():
            surrogate.after_step(step)


def check_loss(value: Tensor, where: str, position: Position) -> float:
    """Return the loss as a number.

    Raises:
        TaskError: it is not a finite scalar that depends on what is trained.
    """
    if not isinstance(value, Tensor) or value.numel() != 1 or value.dim() > 1:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TaskError("the loss is not a scalar", where=where, got=got, hint="take the mean over the batch")
    if not value.requires_grad:
        raise TaskError(
            "the loss does not depend on what is trained",
            where=where,
            hint="look for detach(), no_grad() or argmax",
        )
    found = float(value.detach())
    if not math.isfinite(found):
        raise TaskError(
            "the loss is not finite",
            where=where,
            got=f"{found} in epoch {position.epoch}, step {position.batch}",
            hint="try a lower lr, warmup, or clip",
        )
    return found


def check_finite(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors that training has driven out of range, before anything is made of them.

    Raises:
        TaskError: names the first that holds NaN or infinity.
    """
    for name, tensor in tensors:
        if not finite(tensor):
            raise TaskError(
                "training has diverged: holds NaN or infinity",
                where=name,
                hint="try a lower lr, warmup, or clip",
            )


def finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinity."""
    known = tensor if tensor.dtype.itemsize > 1 else tensor.float()  # torch cannot tell of 8 bits
    return bool(
        torch.isfinite(known.sum()) or torch.isfinite(known).all()
    )  # a sum is quick, but may overflow


class Watch:
    """Tells `events` the mean loss every so many steps."""

    def __init__(self, name: str, epochs: int, events: Events) -> None:
        self.name, self.epochs, self.events = name, epochs, events
        self.losses: list[float] = []
        self.started = False

    def stepped(self, position: Position, length: int, loss: float) -> None:
        """Count one step."""
        if not self.started:
            self.events(Started(self.name, self.epochs * length))
            self.started = True
        self.losses.append(loss)
        done = position.taken + 1
        if done % REPORT_STEPS == 0 or position.batch + 1 == length:
            mean = sum(self.losses) / len(self.losses)
            self.events(Progress(self.name, done, {"loss": mean, "epoch": position.epoch + 1}))
            self.losses.clear()


@contextmanager
def isolated() -> Iterator[None]:
    """Let gradients flow and the global generators be used; leave modes and generators as they were."""
    with torch.inference_mode(False), torch.enable_grad(), kept_generators():
        yield
