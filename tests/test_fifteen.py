"""Networks nobody wrote the core for: each compressed to int8 and reloaded right, or refused by one clear error."""

import re

import numpy as np
import pytest
import torch
from networks import NETWORKS, exported

from featherweight.artifact import dumps, loads
from featherweight.errors import FeatherweightError
from featherweight.evaluation.metrics import parity
from featherweight.formats import Encoded, Int
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.techniques import Encode
from featherweight.techniques.base import Context

INT8 = Encode(format=Int(bits=8, per="channel"), coder="smallest")


class Bare:
    """A task that has a network and an example, and nothing else."""

    def __init__(self, name):
        self.network = NETWORKS[name]

    def model(self):
        return self.network.build()[0]

    def example(self):
        return self.network.build()[1]


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if not network.refused])
def test_int8_and_back(name):
    task = Bare(name)
    try:
        model = INT8.apply(Model.of(task.model()), task, Context())
    except FeatherweightError as refusal:
        assert name == "double" and "only float32" in str(refusal)
        return
    artifact = loads(dumps(pack(model, exported(name)[2])))
    module = artifact.into(task.model())
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, model.module.state_dict()[key]), key
    floats = task.model().state_dict()
    encoded = {key: entry for key, entry in artifact.tensors.items() if isinstance(entry, Encoded)}
    assert encoded
    for key, entry in encoded.items():
        step = np.abs(floats[key].numpy()).max() / 127
        assert np.abs(entry.decode() - floats[key].numpy()).max() <= 0.51 * step + 1e-7, key
    assert parity(artifact.session(threads=1), module, task).difference <= 1e-5


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.refused])
def test_refused_by_one_error_that_says_why(name):
    with pytest.raises(FeatherweightError) as refusal:
        exported(name)
    assert re.search(NETWORKS[name].refused.replace("(", r"\(").replace(")", r"\)"), str(refusal.value))
