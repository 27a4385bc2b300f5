"""What the reproduction `training-cost` counts and measures: operators by hand, the roofline, phases, the page."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.errors import ConfigError
from featherweight.model import to_bytes
from reproduce import reproduce, training_cost
from reproduce.roofline import Counting, Machine, Operator, Work, phases
from reproduce.training_cost import PLAIN, UPDATES, Step, images, replace

LENET5 = 431_080  # parameters, of which 580 are biases
MACS = 20 * 24 * 24 * 25, 50 * 8 * 8 * 500, 800 * 500, 500 * 10  # of the layers of LeNet-5


def counted(call):
    with Counting() as counting:
        call()
    return [(o.name, o.macs, o.nbytes) for o in counting.work.operators]


def test_operators_are_counted_by_hand():
    x, w = torch.ones(4, 3), torch.ones(5, 3)
    assert counted(lambda: nn.functional.linear(x, w)) == [("mm", 4 * 3 * 5, 4 * (12 + 15 + 20))]
    assert counted(lambda: x.view(2, 6).T.detach()) == []  # nothing moves
    assert counted(lambda: x.relu_()) == [("relu_", 0, 4 * (12 + 12))]  # read and written
    assert counted(lambda: x.to(torch.bfloat16)) == [("_to_copy", 0, 4 * 12 + 2 * 12)]
    assert counted(lambda: x[:1].expand(9, 3) + 1) == [
        ("add", 0, 4 * (12 + 27))
    ]  # of a view no more than there is
    assert counted(lambda: torch._foreach_add([x, w], 1.0)) == [("_foreach_add", 0, 4 * 2 * (12 + 15))]


def test_both_passes_of_lenet5_are_counted_in_every_type():
    for kind in ("float32", "bfloat16", "float16"):
        work = Step.of(images("LeNet-5", 2), replace(PLAIN, precision=kind)).work
        assert work["forward"].macs == 2 * sum(MACS)
        assert work["backward"].macs == 2 * (2 * sum(MACS) - MACS[0])  # no gradient of the images
        assert work["update"].macs == 0 and work["update"].nbytes > 4 * 4 * LENET5


def test_convolutions_in_groups_are_counted_both_ways():
    for groups, transposed in ((1, False), (4, False), (2, True)):
        x = torch.ones(3, 8, 6, 6, requires_grad=True)
        layer = (nn.ConvTranspose2d if transposed else nn.Conv2d)(8, 8, 3, bias=False, groups=groups)
        pixels = 6 * 6 if transposed else 4 * 4
        macs = 3 * pixels * 8 * (8 // groups) * 9
        with Counting() as counting:
            layer(x).sum().backward()
        found = {o.name: o.macs for o in counting.work.operators if o.macs}
        assert found == {"convolution": macs, "convolution_backward": 2 * macs}


def test_the_roofline_by_hand():
    machine = Machine({torch.float32: 1e9}, [2**10, 2**20], [1e6, 3e6], 1e-4)
    arithmetic, memory = (
        Operator("mm", 10**9, 2**10, torch.float32),
        Operator("add", 0, 2**15, torch.float32),
    )
    call = Operator("add", 0, 4, torch.float32)
    assert machine.terms(arithmetic) == pytest.approx((1.0, 2**10 / 1e6, 1e-4))
    assert machine.terms(memory) == pytest.approx((0.0, 2**15 / 2e6, 1e-4))  # halfway between the two sizes
    assert machine.terms(call) == pytest.approx((0.0, 4e-6, 1e-4))
    seconds, binds = Work([arithmetic, memory, *[call] * 3]).predicted(machine)
    assert (seconds, binds) == (pytest.approx(1.0 + 2**15 / 2e6 + 3e-4), "arithmetic")
    assert Work([memory]).predicted(machine)[1] == "memory" and Work([call]).predicted(machine)[1] == "calls"


def test_phases_are_measured_in_turns():
    calls = []

    def work(name, phase, size):
        def call():
            calls.append((name, phase))
            np.linalg.svd(np.ones((size, size)))

        return call

    steps = {
        name: {phase: work(name, phase, size) for phase, size in (("short", 20), ("long", 160))}
        for name in ("a", "b")
    }
    found = phases(steps, 4)
    for name, times in found.items():
        mine = [phase for other, phase in calls if other == name]
        assert mine == ["short", "long"] * (len(mine) // 2)  # the phases of a step follow each other
        assert times["long"].milliseconds > times["short"].milliseconds > 0
    order = [name for name, _ in calls]
    assert sum(a != b for a, b in pairwise(order)) >= 4


def test_bytes_that_are_held():
    held = {name: Step.of(images("LeNet-5", 2), UPDATES[name]) for name in UPDATES}
    for step in held.values():
        _ = step.work  # a step is taken: moments are there
    bias = 580
    weights = LENET5 - bias
    assert held[training_cost.SGD].held() == (12 * LENET5, 12 * LENET5)
    assert held["AdamW"].held() == (16 * LENET5, 16 * LENET5)
    assert held["AdamW, weights, gradients and moments of 8 bits"].held() == (
        16 * LENET5, 4 * weights + 16 * bias,
    )  # fmt: skip
    assert held["the same, momentum in bfloat16"].held() == (12 * LENET5, 10 * weights + 12 * bias)
    rounded = held["the same, weights of 8 bits stochastically"].work["update"]
    assert [o.nbytes for o in rounded.operators if o.name == "round"] == [8 * weights]


def test_what_the_forward_pass_keeps():
    step = Step.of(images("LeNet-5", 4))
    pooled = 20 * 12 * 12 + 50 * 4 * 4
    convolved = 20 * 24 * 24 + 50 * 8 * 8
    least = (
        4 * 4 * (28 * 28 + convolved + pooled + 500 + 10)
    )  # inputs of layers, of poolings and of the softmax
    assert least <= step.kept <= least + 4 * 8 * (pooled + 100)  # and the places of the greatest


def test_an_update_with_gradients_that_overflow_is_left_out():
    step = Step.of(images("LeNet-5", 2), replace(PLAIN, precision="float16", lr=1.0))
    before = {name: to_bytes(tensor) for name, tensor in step.state.floats.items()}
    step.phases["forward"]()
    step.state.scale.value = 2.0**60
    step.phases["backward"]()
    step.phases["update"]()
    assert {name: to_bytes(tensor) for name, tensor in step.state.floats.items()} == before
    step.state.scale.value = 1.0
    for phase in training_cost.PHASES:
        step.phases[phase]()
    assert {name: to_bytes(tensor) for name, tensor in step.state.floats.items()} != before


def test_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(training_cost, "resolve", lambda name, trained: images("LeNet-5", 64))
    results = reproduce("training-cost", tmp_path, quick=True, threads=1, price=0.5)
    tables = {
        table["title"]: table for table in json.loads((tmp_path / "results.json").read_text())["sheets"]
    }
    assert len(tables) == 8 and len(results.checks) == 4 and results.command.endswith("--price 0.5")
    (reduced,) = (table for title, table in tables.items() if title.startswith("How to reduce all three"))
    rows = {row[0]: row[1:] for row in reduced["rows"]}
    assert float(rows["half the MACs pruned, whole channels"][3]) < 1  # bytes of the forward pass
    assert (
        rows["products that skip zeros"][:7] == [None] * 7
        and "not measured" in rows["products that skip zeros"][7]
    )
    (inferred,) = (table for title, table in tables.items() if title.startswith("Inference"))
    for row in inferred["rows"]:
        hour, dollar = (int(cell.replace(",", "")) for cell in row[-2:])
        assert dollar == pytest.approx(2 * hour, abs=2)
    assert (tmp_path / "step.svg").is_file()


def test_other_results_tell_nothing_of_dollars(tmp_path):
    with pytest.raises(ConfigError, match=r"growth: tells nothing of dollars"):
        reproduce("growth", tmp_path, quick=True, price=1.0)
