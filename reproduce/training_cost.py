"""What a step of training costs: forward, backward and update, by precision and batch, beside a roofline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from msgspec.structs import replace
from torch import Tensor, nn

from featherweight.activations import Affine, FloatingPoint
from featherweight.capture.memory_format import channels_last
from featherweight.data.indexed import Images, Normalisation
from featherweight.evaluation.metrics import metrics, model_predictor
from featherweight.events import Events, Message
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.rounding import Rounding
from featherweight.runtime.timing import Timing
from featherweight.task.tasks import Classification
from featherweight.task.training import Precision, Training
from featherweight.techniques import Factorize, Finetune, Prune, Sparsify
from featherweight.techniques.lowrank import Given
from featherweight.techniques.saliencies.values import Magnitude
from featherweight.training.loop import minimise, of_network
from featherweight.units import nbytes
from featherweight.workspace import pinned
from featherweight.zoo.lenet import LeNet5
from featherweight.zoo.mobilenet_v2 import mobilenet_v2_32
from featherweight.zoo.resnet import resnet20
from featherweight.zoo.tasks import resolve
from reproduce.figure import new_figure, svg
from reproduce.results import Cell, Check, Measured, Plot, Sheet, mean_spread
from reproduce.roofline import ROUNDS, TYPES, Machine, phases, processor
from reproduce.roofline import measure as machine_and_table
from reproduce.tasks import Short
from reproduce.training_step import PHASES, PLAIN, Step

ABOUT = (
    "Seconds and bytes of forward pass, backward pass and update, by precision and batch size, beside what a "
    "roofline predicts; which technique reduces which of the three; half precision against float32 on this processor."
)
REMARKS = [
    (
        "Times are of the processor: what other processes took is not in them. They are medians of steps of the "
        "library's own training loop, measured in turns, with the tenth and the ninetieth percentile in brackets. "
        "Inputs are random: they do not change the time."
    ),
    (
        "Bytes moved are counted, not measured: the tensors that every operator reads and writes, as torch calls them, "
        "and 8 bytes for each number that is rounded to a grid. What kernels keep in caches or convert inside is not "
        "seen."
    ),
    (
        "The roofline takes for each operator the longest of three: multiply-accumulates over the fastest product, "
        "bytes over the bandwidth of a copy of as many bytes, and the call of an operator on one number. Kernels of a "
        "step may be better than those measured; what binds is the term with most of the sum."
    ),
    (
        "Numbers on a grid are held as float32 here: rounding costs time and saves none on this processor. The bytes "
        "that they would take are a count."
    ),
    (
        "bfloat16 and float16 are torch's autocast. They are faster where the processor has units for them "
        "(AVX512-BF16, AVX512-FP16, AMX), and slower where it has none: see the kernels. Accuracy is compared on "
        "LeNet-5, because a short training of ResNet-20 takes too long in them here."
    ),
]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "LeNet-5": (LeNet5, (1, 28, 28)),
    "ResNet-20": (resnet20, (3, 32, 32)),
    "MobileNetV2": (mobilenet_v2_32, (3, 32, 32)),
}
BATCHES, STEPS = (1, 8, 32), 80
EIGHT = Affine(2.0**-7, 0, 8, True)
HALF, FLOAT8 = FloatingPoint(1.0, "bfloat16"), FloatingPoint(1.0, "float8_e5m2")


def images(network: str, batch: int) -> Classification:
    """Return a task of one batch of random images."""
    build, shape = NETWORKS[network]
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch, *shape), np.uint8)
    norm = Normalisation(mean=(128.0,) * shape[0], std=(64.0,) * shape[0])
    data = Images(pixels, generator.integers(0, 10, batch), norm)
    return Classification(build, train=data, validation=data, test=data, name=network, batch_size=batch)


SGD = "gradient descent with momentum"
UPDATES = {
    SGD: PLAIN,
    "the same, weights of 8 bits to nearest": replace(PLAIN, weights=Rounding(EIGHT, "nearest")),
    "the same, weights of 8 bits stochastically": replace(PLAIN, weights=Rounding(EIGHT)),
    "the same, weights of 8 bits, shared randomness": replace(PLAIN, weights=Rounding(EIGHT, "shared")),
    "the same, momentum in bfloat16": replace(PLAIN, moments=Rounding(HALF, "shared")),
    "the same, momentum in float8_e5m2": replace(PLAIN, moments=Rounding(FLOAT8, "shared")),
    "AdamW": replace(PLAIN, optimizer="adamw"),
    "AdamW, moments in bfloat16": replace(PLAIN, optimizer="adamw", moments=Rounding(HALF, "shared")),
    "AdamW, moments in float8_e5m2": replace(PLAIN, optimizer="adamw", moments=Rounding(FLOAT8, "shared")),
    "AdamW, weights, gradients and moments of 8 bits": replace(
        PLAIN, optimizer="adamw", weights=Rounding(EIGHT, "shared"), gradients=Rounding(FLOAT8, "shared"),
        moments=Rounding(FLOAT8, "shared"),
    ),
}  # fmt: skip
# Ways to reduce the cost of a step, and what is to be said of each.
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    "weights of 8 bits, shared randomness": (
        {"options": replace(PLAIN, weights=Rounding(EIGHT, "shared"))},
        "held as float32 here: the bytes fall where weights are held in 8 bits",
    ),
    "gradients of 8 bits": (
        {"options": replace(PLAIN, gradients=Rounding(FLOAT8, "shared"))},
        "held as float32 here: pays where gradients travel between machines",
    ),
    "8-bit weights, trained straight through": (
        {"towards": Finetune(format=Int(bits=8))},
        "makes inference cheaper and training more expensive",
    ),
    "half the MACs pruned, whole channels": (
        {"prepared": [Prune(keep=0.5, saliency=Magnitude())]},
        "smaller tensors: the bytes of all three fall; the time does where calls do not bind",
    ),
    "9 of 10 weights pruned and kept so": (
        {"prepared": [Sparsify(sparsity=0.9)], "options": replace(PLAIN, keep_zeros=True)},
        "zeros are multiplied like other numbers: no kernel here skips them",
    ),
    "low rank (Tucker, 8 components)": (
        {"prepared": [Factorize(rank=Given(rank=8))]},
        "fewer MACs, more operators and more activations to move",
    ),
    "only the last layer trains": (
        {"last": 2},
        "nothing goes back through the others, and nothing is kept for that",
    ),
}  # fmt: skip
WHY = {
    "bfloat16 products": "half the bytes of activations; faster where there are units for it",
    "float16 products": "likewise; the scale of the loss is a pass over all gradients more",
    "a batch of 1, an image": "weights, gradients and moments move once a step, and operators are called once a step",
}
NOT_MEASURED = {
    "products of 8-bit integers or floats": "torch has no backward pass in them on a processor",
    "products that skip zeros": "torch has sparse products of matrices, and no sparse convolutions",
    "FFT or Winograd convolutions": "oneDNN, which torch calls, chooses the algorithm itself and cannot be told",
    "activations held in 8 bits for the backward pass": "the library has no such step",
}


def measure(quick: bool, threads: int, events: Events, price: float | None = None) -> Measured:
    """Measure everything; quick: one small network, one batch, few rounds.

    Args:
        quick: for tests.
        threads: of torch.
        events: where progress goes.
        price: dollars that an hour of this machine costs; None: not known.
    """
    networks, batches = (["LeNet-5"], (2,)) if quick else (list(NETWORKS), BATCHES)
    with pinned(threads):
        load = os.getloadavg()[0]
        events(Message("what the processor does at most"))
        machine, roof = machine_and_table(quick)
        steps = {
            (network, batch, kind): Step.of(images(network, batch), replace(PLAIN, precision=kind))
            for network in networks for batch in batches for kind in TYPES
        }  # fmt: skip
        updates = {
            (network, name): Step.of(images(network, batches[0]), options)
            for network in networks for name, options in UPDATES.items()
        }  # fmt: skip
        subject, batch = networks[min(1, len(networks) - 1)], batches[-1]
        ways = {(name,): Step.of(images(subject, batch), **way) for name, (way, _) in WAYS.items()}
        events(Message("steps of training, in turns"))
        every: dict[Any, Step] = {**steps, **updates, **ways}
        times = phases({key: step.phases for key, step in every.items()}, 2 if quick else ROUNDS)
        events(Message("inference, and training in half precision"))
        inferred = _inference(networks, batches, quick, price)
        trainings, checks = _trainings(quick, events)
        first = (subject, batch, "float32")
        compared: dict[str, Hashable] = {
            f"{kind} products": (subject, batch, kind) for kind in TYPES if kind != "float32"
        }
        compared |= {f"a batch of {few}, an image": (subject, few, "float32") for few in batches if few == 1}
        sheets = [
            _about(threads, load, [timing.quiet for found in times.values() for timing in found.values()]), roof,
            _seconds(steps, times), _roofline(steps, times, machine), _updates(updates, times, machine),
            _reductions(first, {**compared, **{name: (name,) for name in WAYS}}, every, times),
            inferred, trainings,
        ]  # fmt: skip
        plot = picture(steps, times, machine, batch)
    return Measured([], checks, sheets, [plot])


Times = Mapping[Any, Mapping[str, Timing]]
Steps = Mapping[tuple[str, int, Precision], Step]


def _spread(timing: Timing) -> str:
    return f"{timing.milliseconds:.3g} ({timing.low:.3g} to {timing.high:.3g})"


def _about(threads: int, load: float, quiet: Sequence[bool]) -> Sheet:
    now, count = os.getloadavg()[0], f"{sum(quiet)} of {len(quiet)}"
    rows: list[list[Cell]] = [
        ["processor", processor()],
        ["instructions that torch uses", torch.backends.cpu.get_cpu_capability()],
        ["threads", str(threads)],
        ["processes that ran or waited, at the start and at the end", f"{load:.1f} and {now:.1f}"],
        ["phases whose quartiles lay within a tenth of the median", count],
        ["quiet", "yes" if sum(quiet) > 0.9 * len(quiet) else "no"],
    ]
    return Sheet("The machine", ["what", "it is"], rows)


def _seconds(steps: Steps, times: Times) -> Sheet:
    rows: list[list[Cell]] = []
    for network, batch, kind in steps:
        found = times[network, batch, kind]
        total = sum(found[phase].milliseconds for phase in PHASES)
        cells = [_spread(found[phase]) for phase in PHASES]
        rows.append([network, batch, kind, *cells, f"{1000 * batch / total:.3g}"])
    head = ["network", "batch", "products in", *(f"{phase}, ms" for phase in PHASES), "images a second"]
    return Sheet("A step of training", head, rows)


def _roofline(steps: Steps, times: Times, machine: Machine) -> Sheet:
    rows: list[list[Cell]] = []
    for key, step in steps.items():
        work, cells, ratios = step.work, list[Cell](), list[str]()
        for phase in PHASES:
            seconds, binds = work[phase].predicted(machine)
            cells += [nbytes(work[phase].nbytes), f"{1000 * seconds:.3g}, {binds}"]
            ratios.append(f"{times[key][phase].milliseconds / 1000 / seconds:.1f}")
        macs = [f"{work[phase].macs / 1e6:.1f}" for phase in PHASES[:2]]
        rows.append([*key, *macs, *cells, ", ".join(ratios), nbytes(step.kept)])
    moved = [f"{phase}, {what}" for phase in PHASES for what in ("bytes moved", "ms predicted")]
    head = ["network", "batch", "products in", "forward, million MACs", "backward, million MACs", *moved]
    return Sheet(
        "What the roofline predicts", [*head, "measured over predicted", "kept for the backward pass"], rows
    )


def _updates(updates: Mapping[tuple[str, str], Step], times: Times, machine: Machine) -> Sheet:
    rows: list[list[Cell]] = []
    for (network, name), step in updates.items():
        work = step.work["update"]
        seconds, binds = work.predicted(machine)
        held, least = step.held()
        rows.append([
            network, name, _spread(times[network, name]["update"]), nbytes(work.nbytes),
            f"{1000 * seconds:.3g}, {binds}", nbytes(held), nbytes(least),
        ])  # fmt: skip
    head = [
        "network",
        "update",
        "ms",
        "bytes moved",
        "ms predicted",
        "held here",
        "held in the bits of the grids",
    ]
    return Sheet("The update: weights, gradients and moments", head, rows)


def _reductions(
    first: Hashable, ways: Mapping[str, Hashable], every: Mapping[Any, Step], times: Times
) -> Sheet:
    """Return what each way costs over the step that is nothing special, in time and bytes of each phase."""

    def moved(step: Step) -> list[int]:
        work = step.work
        return [*(work[phase].nbytes for phase in PHASES), step.kept]

    network, batch, _ = cast(tuple[str, int, str], first)
    base, rows = moved(every[first]), list[list[Cell]]()
    for name, key in ways.items():
        shares, images = list[str](), batch / key[1] if isinstance(key, tuple) and len(key) > 1 else 1.0
        for phase in PHASES:
            mine, own = times[key][phase], times[first][phase].milliseconds / images
            shares.append(f"{mine.milliseconds / own:.2f} ({mine.low / own:.2f} to {mine.high / own:.2f})")
        cells = [f"{images * b / a:.2f}" if a else "" for a, b in zip(base, moved(every[key]), strict=True)]
        rows.append([name, *shares, *cells, WHY.get(name) or WAYS[name][1]])
    rows += [[name, *[None] * 7, f"not measured: {why}"] for name, why in NOT_MEASURED.items()]
    head = [
        "technique",
        *(f"{p}, time" for p in PHASES),
        *(f"{p}, bytes" for p in PHASES),
        "bytes kept",
        "why",
    ]
    return Sheet(
        f"How to reduce all three: {network}, batch {batch}, over float32 (below 1 is cheaper)", head, rows
    )


def _inference(networks: Sequence[str], batches: Sequence[int], quick: bool, price: float | None) -> Sheet:
    """Return images a second of networks in evaluation mode, and a dollar if its price an hour is known."""
    calls: dict[str, Callable[[], object]] = {}
    for network in networks:
        for batch in batches:
            task = images(network, batch)
            (samples,) = task.batches("test", seed=0, epoch=0)
            module, x = task.model().eval(), channels_last(task.inputs(samples))
            for kind, dtype in TYPES.items():

                def infer(module: nn.Module = module, x: Tensor = x, dtype: torch.dtype = dtype) -> object:
                    half = None if dtype == torch.float32 else dtype
                    with torch.inference_mode(), torch.autocast("cpu", half, enabled=half is not None):
                        return module(x)

                calls[f"{network}/{batch}/{kind}"] = infer
    rows: list[list[Cell]] = []
    times = phases({name: {name: call} for name, call in calls.items()}, 2 if quick else ROUNDS)
    for found in (timing[name] for name, timing in times.items()):
        network, count, products = found.name.split("/")
        rate = 1000 * int(count) / found.milliseconds
        cells: list[Cell] = [
            network,
            int(count),
            products,
            _spread(found),
            f"{rate:,.0f}",
            f"{3600 * rate:,.0f}",
        ]
        rows.append([*cells, *([f"{3600 * rate / price:,.0f}"] if price else [])])
    head = ["network", "batch", "products in", "ms", "inferences a second", "inferences an hour"]
    title = "Inference in torch; a dollar buys the inferences of an hour over the price of an hour"
    return Sheet(title, [*head, *([f"inferences a dollar, at {price:g} an hour"] if price else [])], rows)


def _trainings(quick: bool, events: Events) -> tuple[Sheet, list[Check]]:
    """Return accuracy and time of the same short training in each type, seed by seed in turns."""
    whole = cast(Classification, resolve("lenet5-mnist", trained=False))
    steps = 2 if quick else STEPS
    task = Short(whole, steps, 128 if quick else 5000, test=256 if quick else None)
    model = Model.of(task.model())
    names = [name for name, tensor in model.tensors.items() if isinstance(tensor, nn.Parameter)]
    accuracies: dict[Precision, list[float]] = {kind: [] for kind in TYPES}
    seconds: dict[Precision, list[float]] = {kind: [] for kind in TYPES}
    for seed in (0,) if quick else (0, 1, 2):
        for kind in TYPES:
            options = Training(
                epochs=1, optimizer="adamw", lr=2e-3, weight_decay=1e-2, warmup=0.1, precision=kind
            )
            objective, start = of_network(model, task, seed=seed), time.process_time()
            values = minimise(model, names, {}, objective, options, events=events, name=kind)
            seconds[kind].append(time.process_time() - start)
            found = model.with_tensors(values)
            accuracies[kind].append(metrics(model_predictor(found, task), task, "test")["accuracy"])
    rows: list[list[Cell]] = []
    base, exact = float(np.median(seconds["float32"])), mean_spread(accuracies["float32"])[0]
    checks = []
    for kind in TYPES:
        mean, spread = mean_spread(accuracies[kind])
        taken, change = float(np.median(seconds[kind])), 100 * (mean - exact)
        span = f"{taken:.1f} ({min(seconds[kind]):.1f} to {max(seconds[kind]):.1f})"
        rows.append([
            kind, f"{mean:.2%}", f"{100 * spread:.2f}", f"{change:+.2f}", span, f"{taken / base:.1f}x",
            len(seconds[kind]),
        ])  # fmt: skip
        if kind != "float32":
            goal = "within 0.3 points"
            checks.append(
                Check(
                    f"accuracy in {kind} against float32", goal, f"{change:+.2f} points", abs(change) <= 0.3
                )
            )
            faster = f"{base / taken:.2f} times as fast"
            checks.append(Check(f"training in {kind} against float32", "faster", faster, taken < base))
    head = [
        "products in",
        "accuracy on test",
        "spread",
        "points against float32",
        "processor seconds",
        "over float32",
        "seeds",
    ]
    title = f"Training in half precision: LeNet-5 on MNIST, {steps} steps of {task.batch_size} images, AdamW"
    return Sheet(title, head, rows), checks


def picture(steps: Steps, times: Times, machine: Machine, batch: int) -> Plot:
    """Return the time of an image in each phase by type, and what the roofline predicts of the whole step."""
    names = list(dict.fromkeys(network for network, _, _ in steps))
    figure = new_figure(7.0, 1.2 + 1.1 * len(names))
    for ax, network in zip(figure.subplots(len(names), 1, squeeze=False).flat, names, strict=True):
        for place, kind in enumerate(reversed(TYPES)):
            left, key = 0.0, (network, batch, kind)
            for number, phase in enumerate(PHASES):
                width = times[key][phase].milliseconds / batch
                label = phase if place == 0 else None
                ax.barh(place, width, left=left, color=f"C{number}", height=0.7, label=label)
                left += width
            seconds = sum(steps[key].work[phase].predicted(machine)[0] for phase in PHASES)
            label = "roofline" if place == 0 else None
            ax.plot([1000 * seconds / batch] * 2, [place - 0.45, place + 0.45], color="black", label=label)
        ax.set_yticks(range(len(TYPES)), list(reversed(TYPES)))
        ax.set_title(f"{network}, batch {batch}", loc="left", fontsize=9)
        ax.set_xlim(left=0)
    ax.set_xlabel("ms an image")
    figure.legend(*ax.get_legend_handles_labels(), ncols=4, loc="outside upper right", fontsize=8)
    return Plot("step.svg", svg(figure))
