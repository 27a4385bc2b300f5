"""Batch statistics against sums written out, and networks and splits that have none."""

import pytest
import torch
from tiny import Tiny
from torch import nn

from featherweight.errors import TaskError
from featherweight.model import Model, equal_bits
from featherweight.task import Restricted
from featherweight.techniques import Context, ReestimateBatchnorm

TASK = Tiny(size=96)


def reestimated(task, model=None, **options):
    step = ReestimateBatchnorm(**options)
    return step.apply(model or Model.of(task.model()), Restricted(task, step.needs), Context())


def test_cumulative_average_over_batches():
    after = reestimated(TASK, samples=64)
    batches = [images for images, _ in TASK.batches("calibration", seed=0, epoch=0)][:2]
    with torch.no_grad():
        outputs = [TASK.model()[0](images).transpose(0, 1).flatten(1).double() for images in batches]
    mean = torch.stack([out.mean(1) for out in outputs]).mean(0)
    var = torch.stack([out.var(1) for out in outputs]).mean(0)
    torch.testing.assert_close(after.tensors["1.running_mean"].double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(after.tensors["1.running_var"].double(), var, rtol=1e-5, atol=1e-6)
    assert after.tensors["1.num_batches_tracked"] == 2
    assert after.module[1].momentum == 0.1 and not after.module[1].training
    assert equal_bits(after.tensors["1.weight"], TASK.model()[1].weight)


def test_says_when_inputs_are_few():
    (note,) = reestimated(TASK, samples=97).notes
    assert note.kind == "chose" and "only 96 inputs of the 97" in note.reason
    assert reestimated(TASK, samples=96, split="train").notes == ()


class Plain(Tiny):
    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4, track_running_stats=False))


class Empty(Tiny):
    def batches(self, split, *, seed, epoch):
        return []


def test_nothing_to_estimate():
    (note,) = reestimated(Plain()).notes
    assert note.kind == "skipped"
    with pytest.raises(TaskError, match="no batches"):
        reestimated(Empty())


class Auxiliary(Tiny):
    """A norm that evaluation does not reach."""

    def model(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.aux = (
                    nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)),
                    nn.BatchNorm1d(4),
                )
                self.aux.running_mean.fill_(5.0)
                self.aux.running_var.fill_(3.0)

            def forward(self, x):
                return (self.body(x), self.aux(self.body(x))) if self.training else self.body(x)

        return Net().eval()


def test_a_norm_that_no_batch_reaches_keeps_its_statistics_with_a_note():
    after = reestimated(Auxiliary(size=64), samples=64)
    assert after.tensors["aux.running_mean"].eq(5).all() and after.tensors["aux.running_var"].eq(3).all()
    assert after.tensors["aux.num_batches_tracked"] == 0
    assert not after.tensors["body.2.running_mean"].eq(0).any()
    (note,) = after.notes
    assert (note.kind, note.name) == ("skipped", "aux") and "no batch reached it" in note.reason


def test_a_batch_of_one_that_has_no_statistics_is_named():
    with pytest.raises(TaskError, match=r"batch 0 \(from 0\) of 1, batch norm in training mode"):
        reestimated(Auxiliary(size=4, batch=1))
