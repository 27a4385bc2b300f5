"""What calibration sees, leaves out and finds strange."""

import os
import subprocess
import sys

import pytest
import torch
from tiny import Tiny
from torch import nn

from featherweight.activations import Affine
from featherweight.errors import ConfigError, TaskError
from featherweight.model import Model
from featherweight.structure import LayerSpec
from featherweight.task import Restricted
from featherweight.techniques import Calibrate, Context
from featherweight.techniques.calibrate import constant, distance, interleaved

TASK = Tiny(size=96)


def calibrated(task=TASK, model=None, **options):
    step = Calibrate(**options)
    return step.apply(model or Model.of(task.model()), Restricted(task, step.needs), Context())


def test_ranges_are_of_what_passed():
    after = calibrated(ranges="minmax", samples=96)
    images = TASK.data("calibration", 96)[0]
    with torch.no_grad():
        relu = TASK.model()[:3](images)
    assert after.activations["input"] == Affine.of(float(images.min()), float(images.max()))
    assert after.activations["relu"].scale == pytest.approx(Affine.of(0.0, float(relu.max())).scale, rel=1e-5)
    assert after.activations["max_pool2d"] == after.activations["relu"]
    assert after.hash != Model.of(TASK.model()).hash
    assert {*after.activations} == {"input", "relu", "max_pool2d", "relu_1", "view"}
    (norms,) = (note.reason for note in after.notes if note.name == "batch norms")
    assert "1 are part of their layers, but not folded" in norms
    assert not any(note.name == "activations" for note in after.notes)
    (few,) = (n.reason for n in calibrated(bits=4, widths={"0": 8}).notes if n.name == "activations")
    assert "4 have integers of 4 bits" in few and "multiply 8" in few


@pytest.mark.parametrize(
    "option", [{"bits": 4}, {"signed": True}, {"scheme": "symmetric"}, {"ranges": "entropy"}]
)
def test_options_of_integers_are_refused_beside_floating_point(option):
    with pytest.raises(ConfigError, match=f"calibrate, {next(iter(option))}: belongs to integers"):
        Calibrate(numbers="bfloat16", **option)


@pytest.mark.parametrize("option", [{"bits": 17}, {"ranges": 50.0}, {"samples": 0}, {"split": "test"}])
def test_options_are_checked_in_code_as_in_a_recipe(option):
    with pytest.raises(ConfigError, match=f"calibrate.{next(iter(option))}: "):
        Calibrate(**option)


def test_layers_left_in_float():
    after = calibrated(keep_float=("8", "4"))
    assert "view" not in after.activations and "max_pool2d" not in after.activations
    assert {note.name for note in after.notes if "asked for" in note.reason} == {"4", "8"}
    with pytest.raises(ConfigError, match=r"keep_float: matches no layer: got fc, expected 0, 1, 4, 8"):
        calibrated(keep_float=("fc",))


def test_a_new_structure_drops_quantizers():
    after = calibrated().with_structure({"2": LayerSpec("Identity")}, {})
    assert not after.activations and after.notes[-1].name == "activations"


class Few(Tiny):
    def batches(self, split, *, seed, epoch):
        return [(torch.zeros(4, 1, 8, 8), torch.zeros(4))]


class ChannelsLast(Tiny):
    def batches(self, split, *, seed, epoch):
        return [(torch.zeros(4, 8, 8, 1), torch.zeros(4))]


class Empty(Tiny):
    def batches(self, split, *, seed, epoch):
        return []


def test_strange_data_are_said_or_refused():
    reasons = [note.reason for note in calibrated(Few()).notes if note.name == "calibration data"]
    assert [any(word in reason for reason in reasons) for word in ("only 4", "equal", "batch norm")] == [
        True
    ] * 3
    with pytest.raises(TaskError, match=r"permute\(0, 3, 1, 2\)"):
        calibrated(ChannelsLast())
    with pytest.raises(TaskError, match="no batches"):
        calibrated(Empty())


def test_images_read_in_another_layout_are_seen():
    smooth = nn.functional.interpolate(torch.rand(4, 3, 8, 8), 64, mode="bilinear") + torch.tensor(
        [0.0, 1, 2]
    ).view(3, 1, 1)
    assert not interleaved(smooth)
    assert interleaved(smooth.permute(0, 2, 3, 1).reshape(4, 3, 64, 64))
    assert constant([smooth[:1], smooth[:1]]) and not constant([smooth])


def test_the_distance_of_training_data_is_nothing():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None))
    data = torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    net(data)
    assert distance(net.eval(), [data]) < 0.05
    assert distance(net, [10 * data + 3]) > 1


def test_the_same_bytes_whatever_the_hashes_of_strings():
    """Edges that share a quantizer are a set; a file must not show in what order it is read."""
    code = """
import hashlib
import torch
from torch import nn
from featherweight.artifact import dumps
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.techniques import Calibrate, Context, Encode

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        y = nn.functional.max_pool2d(self.first(x).relu(), 3, 1, 1)
        return self.second(nn.functional.pad(y, (1, 1, 1, 1)).flatten(2).view(-1, 3, 10, 10))

class Given:
    name = "given"
    example = lambda self: torch.ones(2, 3, 8, 8)
    batches = lambda self, split, *, seed, epoch: [(torch.linspace(-1, 1, 1536).view(8, 3, 8, 8),)]
    inputs = lambda self, batch: batch[0]

torch.manual_seed(0)
model = Model.of(Pooled())
for step in (Encode(format=Int(bits=8)), Calibrate()):
    model = step.apply(model, Given(), Context())
assert len(model.activations) > 2
print(*set(model.activations), hashlib.sha256(dumps(pack(model))).hexdigest())
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    orders, hashes = zip(
        *(
            subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                capture_output=True,
                env=environment | {"PYTHONHASHSEED": seed},
            ).stdout.rsplit(maxsplit=1)
            for seed in "12"
        ),
        strict=True,
    )
    assert orders[0] != orders[1] and hashes[0] == hashes[1]


def test_fewer_bits_begin_on_the_ranges_that_were_learned():
    wide = calibrated()
    learned = {
        edge: Affine(4 * q.scale, q.zero_point, q.bits, q.signed) for edge, q in wide.activations.items()
    }
    model = wide.with_activations(learned)
    same, narrow = (calibrated(model=model, bits=bits, carry=True).activations for bits in (8, 4))
    assert same == learned
    for edge, old in learned.items():
        assert narrow[edge].bits == 4 and narrow[edge].scale == pytest.approx(old.scale * 255 / 15)
        assert abs(narrow[edge].range[0] - old.range[0]) <= narrow[edge].scale / 2 * 1.001
    assert calibrated(model=model, bits=4).activations != narrow
