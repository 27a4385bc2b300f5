"""Networks nobody wrote the core for: each compressed to int8 and reloaded right, or refused by one clear error."""

import numpy as np
import pytest
import torch
from networks import NETWORKS, REFUSED

from featherweight.artifact import dumps, loads
from featherweight.errors import FeatherweightError
from featherweight.export import export
from featherweight.formats import Encoded, Int
from featherweight.model import Model
from featherweight.recipe.packing import pack
from featherweight.search.evaluate import parity
from featherweight.techniques import Encode
from featherweight.techniques.base import Context


class Bare:
    """A task that has a network and nothing else."""

    def __init__(self, make, example):
        self.make, self.given = make, example

    def model(self):
        torch.manual_seed(0)
        return self.make().eval()

    def example(self):
        return self.given


@pytest.mark.parametrize("name", NETWORKS)
def test_int8_and_back(name):
    task = Bare(*NETWORKS[name])
    model = Encode(format=Int(bits=8, per="channel"), coder="smallest").apply(Model.of(task.model()), task, Context())
    graph = export(model.module, task.example())
    artifact = loads(dumps(pack(model, graph)))
    module = artifact.into(task.model())
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, model.module.state_dict()[key]), key
    assert any(isinstance(entry, Encoded) for entry in artifact.tensors.values())
    assert parity(artifact.session(threads=1), module, task) <= 1e-5
    floats = task.model().state_dict()
    for key, entry in artifact.tensors.items():
        if isinstance(entry, Encoded):
            step = np.abs(floats[key].numpy()).max() / 127
            assert np.abs(entry.decode() - floats[key].numpy()).max() <= 0.51 * step + 1e-7


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_one_error_that_says_why(name):
    make, example, why = REFUSED[name]
    with pytest.raises(FeatherweightError, match=why):
        export(make().eval(), example)
