"""The table of files for other runtimes: what is in it, and against what decisions are compared."""

import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Classification, Recipe, compress
from featherweight.techniques import Calibrate, Encode
from reproduce.outputs import GOAL, JUDGED, TITLES, WHOLE, compared, files_of, images_of, whole

pytest.importorskip("ai_edge_litert")


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
    images, labels = torch.randn(40, 3, 6, 6), torch.randint(0, 4, (40,))
    parts = [(images[part], labels[part]) for part in (slice(20), slice(20, 30), slice(30, 40))]
    task = Classification(network, train=parts[0], validation=parts[1], test=parts[2], batch_size=8)
    recipe = Recipe([Encode(portable=True), Calibrate(samples=16)])
    return [compress(task, r, threads=1).artifact for r in (recipe, whole(recipe))], task


def test_few_images_are_mirrored_and_many_are_not(made):
    task = made[1]
    assert images_of(task, 10).shape == (10, 3, 6, 6)
    few = images_of(task, 1000)
    assert few.shape == (40, 3, 6, 6)
    assert np.array_equal(few[20:], few[:20, :, :, ::-1])


def test_every_file_is_in_the_table_and_the_judged_ones_are_checked(made):
    artifacts, task = made
    names = ["openvino-int8", "litert", "litert-int8", "litert-16x8"]
    sheet, checks = compared(
        "small", artifacts, task, images_of(task, 1000), [*names, "litert-integer"], quick=True
    )
    ends = [f"{title}{WHOLE}" for title in ("ONNX int8", "OpenVINO IR int8", "LiteRT integer")]
    assert [row[0] for row in sheet.rows] == [
        "ONNX float32", "ONNX int8", *(TITLES[name] for name in names), *ends,
    ]  # fmt: skip
    assert all(isinstance(row[1], int) and row[1] > 0 for row in sheet.rows)
    judged = [f"small, {title}: decisions of the simulation" for title in (JUDGED[0], JUDGED[2])]
    assert [check.name for check in checks] == judged
    assert all(check.holds for check in checks), GOAL


def test_files_compute_scores_of_all_images_whatever_their_number(made):
    (artifact, _), task = made
    images = images_of(task, 1000)[:27]
    files = files_of(artifact, images[:1], ["litert"])
    plain, _, litert = (file.decide(images) for file in files)
    np.testing.assert_allclose(plain, litert, rtol=1e-4, atol=1e-5)
