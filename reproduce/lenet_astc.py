"""LeNet in ASTC blocks against integers and k-means: without and with re-training, alone and after pruning."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from featherweight.events import Events
from featherweight.formats import AnyFormat, Astc, Clustered, Int
from featherweight.formats.astc.tables import Footprint
from featherweight.recipe import Recipe, run
from featherweight.search.sensitivity import Option, Sensitivity
from featherweight.search.sensitivity import measure as sensitivity
from featherweight.task import Task
from featherweight.techniques import AnyStep, Encode, Finetune, Gptq, Prune, Train
from featherweight.techniques.saliencies import Taylor
from featherweight.training.methods import AstcBlocks, Project, StraightThrough
from featherweight.workspace import Workspace
from featherweight.zoo.tasks import resolve
from reproduce.astc import Alone, allocated, astc, blocks, costs, footprints, gains, lines_of, ratios
from reproduce.plots import front
from reproduce.results import ACCURACY, Cell, Measured, Plot, Row, Sheet
from reproduce.settings import REST, Demand, Outcome, Setting, check, measured, parity, row

ABOUT = (
    "LeNet in ASTC blocks, integers and k-means: without re-training, with it, and after pruning; the poster."
)
REMARKS = [
    ACCURACY,
    "Checks take the smallest ASTC file that keeps the demand on 5,000 validation images, seeds averaged.",
    "p is the exact sign test over the samples of test that changed, the seeds pooled.",
    "Footprints of each tensor are allocated by the sensitivities of seed 0, on validation.",
    "A and B train fc1 (97 % of the weights) for one epoch at the same rate, the other weights encoded and fixed.",
    "A encodes again twice an epoch and at the end; B starts from what error feedback gives.",
    "Pruning removes whole channels and units (nine tenths of the parameters): the textures stay dense.",
    "What is pruned trains four epochs more than the float network beside it; so does `float32, trained on`.",
]
EXEMPT = "biases (float16)"
FLOAT = (
    "float32, trained on"  # as long as what is pruned: that too is better than the float network of the table
)
TRAIN = Train(precision="bfloat16")
TUNE = Finetune(epochs=1, optimizer="adamw", lr=2e-3, warmup=0.1, precision="bfloat16")
FOOTPRINTS: tuple[Footprint, ...] = ("4x4", "5x5", "6x6", "8x6", "10x8", "12x12")
IN_BLOCKS = AstcBlocks(share=0.02)
RECOVER = replace(TUNE, epochs=4)  # after pruning, as floats: with one epoch validation lost 0.1 points
RATE = 1e-3  # in blocks, and between projections
RATIOS = (16, 30)
SAMPLES = (
    2048  # inputs that error feedback sees; 128 gave less on validation, with another footprint of conv2 too
)
DAMPING = 0.05  # on validation, of 0.01 to 0.5
SEEDS = {"mnist": [0, 1, 2], "fashion": [0]}
POSTER = {"MNIST": [(13.0, 0.0), (18.2, 0.0), (23.2, -5.0)]}
DEMANDS = {
    "MNIST": (
        Demand("no loss, without re-training", False, 0.1, 28, "poster: 13x"),
        Demand("no loss", True, 0.1, 100, "poster: 18.2x"),
        Demand("under 5 points", True, 5, 140, "poster: 23.2x"),
    ),
    "Fashion-MNIST": (
        Demand("no loss, without re-training", False, 0.3, 15, "no figure"),
        Demand("no loss", True, 0.3, 28, "no figure"),
    ),
}


def settings(formats: dict[int, dict[str, AnyFormat]]) -> list[Setting]:
    """Return every setting; `formats` are those of the tensors by ratio."""
    made = [
        Setting("ASTC, error feedback", footprints(chosen), [TRAIN, fed_back(chosen), REST])
        for chosen in formats.values()
    ]
    made += [pruned("8x6"), pruned("10x8"), *retrained(formats[RATIOS[-1]])]
    made.append(Setting("ASTC, encoded", "6x6", [TRAIN, Encode(format=blocks("6x6")), REST]))
    made.append(Setting(FLOAT, "4 epochs more", [TRAIN, RECOVER]))
    two = Int(bits=2, per="channel", scale_by="mse")
    scalar: list[tuple[str, str, AnyFormat]] = [
        ("naive integers", "4 bits", Int(bits=4, per="tensor")),
        ("tuned integers", "3 bits", Int(bits=3, per="channel", scale_by="mse")),
        ("tuned integers", "2 bits", two),
        ("k-means", "4 values", Clustered(bits=2)),
    ]
    made += [
        Setting(method, name, [TRAIN, Encode(format=format_, coder="smallest"), REST])
        for method, name, format_ in scalar
    ]
    through = replace(TUNE, format=two, method=StraightThrough(), coder="smallest")
    return [*made, Setting("tuned integers, straight-through", "2 bits", [TRAIN, through, REST])]


def fed_back(formats: dict[str, AnyFormat], where: Sequence[str] = ("weights",)) -> Gptq:
    """Return the sweep with error feedback for these formats."""
    return Gptq(where=list(where), formats=dict(formats), samples=SAMPLES, damping=DAMPING)


def retrained(formats: dict[str, AnyFormat]) -> list[Setting]:
    """Return interleaved re-training (A) and compressed training (B) of the largest layer, as long as each other."""
    format_ = formats["fc1.weight"]
    others = {name: other for name, other in formats.items() if name != "fc1.weight"}
    fed = fed_back(others, ["weights", "!fc1.weight"])
    trained = replace(TUNE, where="fc1.weight", format=format_, lr=RATE)
    interleaved, in_blocks = (replace(trained, method=method) for method in (Project(every=215), IN_BLOCKS))
    return [
        Setting("ASTC, interleaved (A)", footprints(formats), [TRAIN, fed, interleaved, REST]),
        Setting("ASTC, in blocks (B)", footprints(formats), [TRAIN, fed_back(formats), in_blocks, REST]),
    ]


def pruned(footprint: Footprint) -> Setting:
    """Return a tenth of the parameters, whole channels, trained as floats and then in blocks."""
    first = "conv1.weight"
    prune = Prune(keep=0.1, of="parameters", saliency=Taylor(), least=8, multiple=4)
    fed = Gptq(format=blocks(footprint), formats={first: blocks("4x4")}, samples=SAMPLES, damping=DAMPING)
    in_blocks = replace(
        TUNE, where=["weights", f"!{first}"], format=blocks(footprint), method=IN_BLOCKS, lr=RATE
    )
    steps: list[AnyStep] = [TRAIN, prune, RECOVER, fed, in_blocks, REST]
    return Setting("ASTC after pruning, in blocks (B)", footprint, steps)


def sensitivities(task: Task, threads: int, events: Events) -> Sensitivity:
    """Return what each tensor does at each footprint, of the network of seed 0."""
    model = run(Recipe([TRAIN]), task, threads=threads, events=events)[-1].model
    made = [Option(blocks(name), "smallest") for name in FOOTPRINTS]
    return sensitivity(model, Workspace(task, threads=threads, events=events), [*made, Option()])


def alone(threads: int, events: Events) -> Alone:
    """Return what fc1 puts out over its error on MNIST, of the network of seed 0."""
    task = resolve("lenet-mnist", events)
    model = run(Recipe([TRAIN]), task, threads=threads, events=events)[-1].model
    sweep = Gptq(where="fc1.weight", samples=SAMPLES, damping=DAMPING, inputs="float")
    return ratios(model, task, sweep, ("8x6", "10x6"), events)


def measure(quick: bool, threads: int, events: Events) -> Measured:
    """Measure both data sets; quick: MNIST alone, one seed, the cheapest settings."""
    outcomes: list[Outcome] = []
    lines: list[list[Cell]] = []
    for data, seeds in {"mnist": [0]}.items() if quick else SEEDS.items():
        task = resolve(f"lenet-{data}", events)
        table = sensitivities(task, threads, events)
        lines += [
            [task.name, cell.tensor, cell.option.format.footprint, cell.nbytes, round(cell.loss, 5)]
            for cell in table.cells
            if isinstance(cell.option.format, Astc)
        ]
        chosen = settings({ratio: allocated(table, ratio) for ratio in RATIOS})
        outcomes += measured("LeNet", task, chosen[:2] if quick else chosen, seeds, threads, events)
    checks = [parity(outcomes)]
    for data, demands in DEMANDS.items():
        here = [outcome for outcome in outcomes if outcome.data == data]
        checks += [check(f"LeNet, {data}", astc(here), demand) for demand in demands if here and not quick]
    sheets = [
        costs(outcomes),
        Sheet("Each tensor alone, seed 0", ["task", "tensor", "footprint", "bytes", "loss"], lines),
    ]
    if not quick:
        found = alone(threads, events)
        checks += gains(found)
        sheets.append(lines_of(found, "fc1 alone, one range, MNIST, seed 0"))
    rows = [row(o, "everything" if o.setting.method == FLOAT else EXEMPT) for o in outcomes]
    return Measured(rows, checks, sheets)


def plot(rows: Sequence[Row]) -> Plot:
    """Return accuracy against ratio, with the poster's figures."""
    return front(rows, 2.5, published=POSTER)
