"""Settings side by side: what is chosen for a demand, the checks, allocated footprints, recipes that can be written."""

from types import SimpleNamespace

import pytest

from featherweight.evaluation.paired_test import Paired
from featherweight.formats import Astc
from featherweight.recipe import Recipe
from featherweight.search.sensitivity import Cell, Option, Sensitivity
from featherweight.techniques import Finetune
from reproduce import alexnet_astc, lenet_astc
from reproduce.astc import allocated, astc, blocks, costs, footprints
from reproduce.plots import front
from reproduce.settings import Demand, Outcome, Setting, check, row, smallest

DEMAND = Demand("no loss", True, 0.1, 20, "poster")


def outcome(ratio, change, *, retrained=False, method="ASTC", on_test=0.0):
    """Two seeds of a network of 1,000 bytes, right on half of validation before."""
    found = [
        SimpleNamespace(
            seed=seed, primary="accuracy", float_bytes=1000, file_bytes=1000 / ratio, difference=1e-7,
            baseline={"validation": {"accuracy": 0.5}, "test": {"accuracy": 0.5}},
            validation={"accuracy": 0.5 + change / 100 + noise}, test={"accuracy": 0.5 + on_test / 100},
            paired=Paired(on_test / 100, 0.001, 0.5, 1, 1, 1000),
            stages=[SimpleNamespace(step="finetune", seconds=3.0)],
        )
        for seed, noise in enumerate((-0.0004, 0.0004))
    ]  # fmt: skip
    return Outcome(
        "Net",
        "MNIST",
        Setting(method, f"{ratio}x", [Finetune()] * retrained),
        [SimpleNamespace(summary=summary) for summary in found],
    )


def test_the_smallest_that_keeps_the_demand_on_validation():
    found = [outcome(10, 0), outcome(15, -0.09), outcome(30, -0.2), outcome(25, 0.0, retrained=True)]
    assert smallest(found, DEMAND) is found[3]
    assert smallest(found, Demand("", False, 0.1, 20, "")) is found[1]
    assert smallest(found, Demand("", False, 1.0, 20, "")) is found[2]
    assert smallest(found[2:3], DEMAND) is None


@pytest.mark.parametrize(
    ("ratio", "on_test", "holds"), [(25, -0.05, True), (25, -0.2, False), (15, 0, False)]
)
def test_a_check_is_of_test(ratio, on_test, holds):
    made = check("Net", [outcome(ratio, 0, on_test=on_test)], DEMAND)
    assert made.holds == holds
    assert f"{ratio:.1f}x, {on_test:+.2f} points on test" in made.measured
    assert not check("Net", [outcome(30, -1)], DEMAND).holds


def test_rows_costs_and_the_plot():
    found = [outcome(10, 0), outcome(25, 0.0, retrained=True), outcome(40, 0, method="k-means")]
    assert [row(one, "none").ratio for one in found] == pytest.approx([10, 25, 40])
    assert [row(one, "none").seeds for one in found] == [[0, 1]] * 3
    assert len(costs(found).rows) == 1 and costs(found).rows[0][-1] == 3
    assert astc(found) == found[:2]
    text = front([row(one, "none") for one in found], 2.0, published={"MNIST": [(13.0, 0.0)]}).svg
    assert "published" in text and "k-means" in text


def test_footprints_go_where_they_do_least_harm():
    def cells(name, harm):
        sizes = {"4x4": 400, "8x8": 100, "12x12": 50}
        return [
            Cell(name, Option(blocks(footprint)), size, harm * (1 / size), 1 / size)
            for footprint, size in sizes.items()
        ] + [Cell(name, Option(), 1600, 0.0, 0.0)]

    table = Sensitivity(1.0, [*cells("frail.weight", 100.0), *cells("sturdy.weight", 1.0)])
    found = allocated(table, 3200 / 450)
    assert footprints(found) == "frail 4x4, sturdy 12x12"
    assert set(allocated(table, 1000).values()) == {Astc("12x12", per="tensor")}


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (lenet_astc, ["conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"]),
        (alexnet_astc, ["features.0.weight", *alexnet_astc.LINEAR]),
    ],
)
def test_recipes_can_be_written(module, names):
    chosen = zip(module.RATIOS, ("5x5", "8x8", "10x8", "12x12"), strict=False)
    formats = {ratio: dict.fromkeys(names, blocks(footprint)) for ratio, footprint in chosen}
    made = module.settings(formats)
    assert len({(s.method, s.setting, str(s.steps)) for s in made}) == len(made)
    for setting in made:
        assert Recipe(list(setting.steps)).toml() and setting.max_drop is None  # a recipe takes no demand


def test_the_large_form_is_weighed():
    sheet = alexnet_astc.large(((12, 12), (6, 36)))
    assert sheet.rows[0][:2] == ["together, 360 weights", 4 * 16 + 6 * 16 + 2 * 8]
    assert len(sheet.rows) == 3
