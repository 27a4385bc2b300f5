"""What a batch gives must be numbers: one error that names the batch, whatever is computed; and shapes of losses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from featherweight import Classification, Regression
from featherweight.curvature.gauss_newton import output_hessian
from featherweight.curvature.hvp import hessian_traces
from featherweight.errors import TaskError, UnsupportedError
from featherweight.formats import Int
from featherweight.model import Model
from featherweight.techniques import Context, CorrectBias, Encode, Gptq, Prune, ReestimateBatchnorm, Sparsify
from featherweight.techniques.saliencies import (
    Fisher,
    Hrank,
    Magnitude,
    Obd,
    Scores,
    SospH,
    SospI,
    SparseGpt,
    Taylor,
    WoodFisher,
)

BAD = 37  # in batch 1 of 32


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).eval()


def task(value=torch.nan, make=network):
    x, y = torch.randn(96, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(96) % 3
    x[BAD, 0, 0, 0] = value
    good = torch.arange(96) != BAD
    return Classification(
        make(),
        train=(x, y),
        calibration=(x, y),
        validation=(x[good], y[good]),
        test=(x[good], y[good]),
        batch_size=32,
    )


PRUNED = [
    Prune(keep=0.6, saliency=saliency)
    for saliency in (
        Taylor(), Taylor(reduction="parameters"), Fisher(), SospI(), SospI(draws=1), SospH(), Obd(),
        Obd(diagonal="gauss_newton"), Hrank(),
    )
]  # fmt: skip
OTHERS = [
    Sparsify(sparsity=0.5, saliency=Obd()),
    Sparsify(sparsity=0.5, saliency=WoodFisher(block=4)),
    ReestimateBatchnorm(),
]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("step", [*PRUNED, *OTHERS], ids=str)
def test_a_sample_that_is_no_number_is_one_error_that_names_its_batch(step, value):
    bad = task(value)
    with pytest.raises(TaskError, match=r"batch \d \(from 0\): .* hold NaN or infinity\nhint: sample \d+ of"):
        step.apply(Model.of(bad.model()), bad, Context())


@pytest.mark.parametrize(
    "step", [Gptq(), CorrectBias(), Sparsify(sparsity=0.5, saliency=SparseGpt())], ids=str
)
def test_layer_by_layer_the_calibration_inputs_are_named(step):
    bad = task()
    floats = Model.of(bad.model())
    model = (
        Encode(format=Int(bits=4)).apply(floats, bad, Context()) if isinstance(step, CorrectBias) else floats
    )
    with pytest.raises(UnsupportedError, match=r"NaN or infinity: got on calibration inputs? \d+"):
        step.apply(model, bad, Context(uncoded=floats))


def test_scores_of_any_saliency_must_be_numbers(monkeypatch):
    good = task(0.0)
    monkeypatch.setattr(
        Magnitude, "scores", lambda self, model, channels, *_: Scores(np.full(channels.count, np.nan))
    )
    with pytest.raises(UnsupportedError, match="scores of magnitude: NaN or infinity"):
        Prune(keep=0.6, saliency=Magnitude()).apply(Model.of(good.model()), good, Context())


@pytest.mark.parametrize("step", [Gptq(), Sparsify(sparsity=0.5, saliency=SparseGpt())], ids=str)
def test_inputs_of_1e19_are_numbers(step):
    """Their squares exceed float32: the moments are those of smaller inputs, which is the same problem."""

    def wide():
        module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).eval()
        torch.nn.init.normal_(module[1].weight, generator=torch.Generator().manual_seed(1))
        return module

    made = []
    for scale in (1.0, 2.0**64):
        x, y = torch.randn(64, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
        one = Classification(wide(), train=(x * scale, y), calibration=(x * scale, y), test=(x * scale, y))
        made.append(step.apply(Model.of(one.model()), one, Context()).tensors["1.weight"])
    torch.testing.assert_close(made[0], made[1])


def test_the_loss_sees_outputs_of_their_own_shape():
    flat = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))
    x = torch.randn(64, 4)
    regression = Regression(flat, train=(x, x.sum(1)), test=(x, x.sum(1)))
    dense = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    images, labels = torch.randn(32, 3, 4, 4), torch.randint(0, 4, (32, 4, 4))
    segmentation = Classification(dense, train=(images, labels), test=(images, labels))
    for job in (regression, segmentation):
        for saliency in (SospI(), Obd(diagonal="gauss_newton")):
            Prune(keep=0.6, saliency=saliency).apply(Model.of(job.model()), job, Context())
    output, batch = torch.randn(5, 4, 2, 2), (images[:5, :, :2, :2], labels[:5, :2, :2])
    p = output.double().softmax(1)[0, :, 1, 0]
    found = output_hessian(segmentation, output, batch)[0].reshape(4, 2, 2, 4, 2, 2)[:, 1, 0, :, 1, 0]
    torch.testing.assert_close(found, (torch.diag(p) - p[:, None] * p) / 4)  # the mean over four pixels


def test_outputs_too_many_for_their_hessian_are_refused():
    with pytest.raises(UnsupportedError, match="too many outputs"):
        output_hessian(task(0.0), torch.zeros(1, 5000), (torch.zeros(1), torch.zeros(1)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.q, self.fc = nn.Linear(4, 16), nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, x):
        q, k, v = self.q(self.e(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.fc(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1))


class Square(torch.autograd.Function):
    """A square that cannot be differentiated twice."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient):
        return 2 * context.saved_tensors[0] * gradient


def test_traces_of_attention_and_of_what_cannot_be_differentiated_twice():
    torch.manual_seed(0)
    model, x = Model.of(Attention().eval()), torch.randn(8, 6, 4)
    assert hessian_traces(model, ["q.weight"], [(lambda run: run(x).square().sum(), 8)])["q.weight"] != 0
    layer = Model.of(nn.Sequential(nn.Linear(3, 2, bias=False)).eval())
    exact, near = (
        hessian_traces(layer, ["0.weight"], [(lambda run, f=f: f(run(torch.eye(3))).square().sum(), 3)])
        for f in (torch.square, Square.apply)
    )
    assert near["0.weight"] == pytest.approx(exact["0.weight"], rel=1e-2)
