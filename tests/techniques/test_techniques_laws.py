"""Every step of ours against the laws of steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import Tiny

from featherweight.formats import Basis, Clustered, Float, Int, Log2
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import (
    Calibrate,
    Context,
    CorrectBias,
    Encode,
    Equalize,
    Factorize,
    Finetune,
    Fold,
    Gptq,
    Prune,
    ReestimateBatchnorm,
    Reorder,
    Sparsify,
    Train,
)
from featherweight.techniques.lowrank import Given
from featherweight.techniques.saliencies import Obd, SospH, SparseGpt, WoodFisher
from featherweight.testing.steps import StepSuite
from featherweight.training.methods import Centroids, LqNets, Project, StraightThrough

TASK = Tiny(size=64)


def encoded() -> Model:
    """A model with a tensor in each of three formats, a bias and a running variance among them."""
    model = Model.of(TASK.model())
    for where, format in (("0.weight", Int(bits=4)), ("4.bias", Log2()), ("1.running_var", Float())):
        model = Encode(where=where, format=format).apply(model, Restricted(TASK, "none"), Context())
    return model


STEPS = [
    Train(epochs=1),
    Train(epochs=1, optimizer="adamw", schedule=[0.5], warmup=0.5, clip=1.0),
    Encode(),
    Encode(where=["*", "!*num_batches_tracked"], format=Clustered(bits=3), coder="smallest"),
    Sparsify(sparsity=0.6),
    Sparsify(sparsity={"0.weight": 0.3, "4.*": 0.8}),
    Sparsify(sparsity=0.7, scope="lamp"),
    Sparsify(pattern=(2, 4)),
    Sparsify(sparsity=0.6, scope="global", saliency=Obd(samples=40)),
    Sparsify(where=["weights", "1.weight"], pattern=(2, 4), saliency=SparseGpt(samples=40)),
    Sparsify(sparsity=0.5, scope="global", saliency=WoodFisher(samples=40, block=7)),
    Fold(),
    Equalize(),
    CorrectBias(samples=40),
    Gptq(samples=40),
    Prune(keep=0.6, saliency=SospH(samples=40)),
    Reorder(),
    Factorize(form="channel", rank=Given(1)),
    ReestimateBatchnorm(samples=40),
    Calibrate(),
    Calibrate(bits=4, signed=True, scheme="symmetric", ranges=99.9, samples=40, keep_float=("0",)),
    Finetune(),
    Finetune(keep_zeros=True, optimizer="adamw", clip=0.1),
    Finetune(format=Int(bits=3, per=4, scheme="affine"), method=StraightThrough(refresh=2), coder="smallest"),
    Finetune(format=Log2(), where=["0.weight", "8.*"]),
    Finetune(format=Clustered(bits=2), method=Centroids()),
    Finetune(format=Int(bits=4), method=Project(every=3)),
    Finetune(format=Basis(bits=2), method=LqNets(), coder="smallest"),
    Encode(format=Basis(bits=3, per=5)),
]


@pytest.fixture(params=STEPS, ids=lambda step: type(step).__name__)
def suite(request):
    class Laws(StepSuite):
        step, task = request.param, TASK

        def model(self):
            return encoded()

    return Laws()


@pytest.mark.parametrize("law", [name for name in dir(StepSuite) if name.startswith("test_")])
def test_law(suite, law):
    getattr(suite, law)()


class TestFromFloats(StepSuite):
    step, task = Finetune(format=Int(bits=2)), TASK


def test_same_bytes_in_another_process():
    code = (
        "import test_techniques_laws as laws;"
        "step = laws.Finetune(format=laws.Int(bits=4));"
        "print(step.apply(laws.encoded(), laws.TASK, laws.Context(seed=3)).hash)"
    )
    here = Finetune(format=Int(bits=4)).apply(encoded(), TASK, Context(seed=3)).hash
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), *sys.path])
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert there.stdout.strip() == here


def test_steps_are_listed_without_torch():
    code = (
        "import sys, msgspec, featherweight.techniques as t; "
        "msgspec.json.schema(t.AnyStep); print('torch' in sys.modules)"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.strip() == "False"
