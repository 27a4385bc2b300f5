"""Weights for `compressed-tensors`, read back bit for bit where that is installed: the extra is not in `dev`."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Classification, Recipe, compress
from featherweight.deploy.packed_weights import obstacle, scheme_of, write_packed
from featherweight.errors import UnsupportedError
from featherweight.formats import Float, Int
from featherweight.techniques import Encode

FORMATS = {
    "0": Int(bits=4, per=32),
    "2": Int(bits=8),
    "4": Int(bits=3, per="tensor"),
    "6": Int(bits=4, per=5),
}


def made():
    x, y = torch.randn(40, 64), torch.randint(0, 2, (40,))
    layers = [
        nn.Linear(64, 48),
        nn.ReLU(),
        nn.Linear(48, 32),
        nn.ReLU(),
        nn.Linear(32, 8),
        nn.ReLU(),
        nn.Linear(8, 2),
    ]
    task = Classification(nn.Sequential(*layers), train=(x, y), test=(x, y))
    steps = [Encode(where=[f"{name}.weight"], format=format) for name, format in FORMATS.items()]
    return compress(task, Recipe(steps), threads=1).artifact


def test_which_weights_can_be_packed():
    artifact = made()
    reasons = {name: obstacle(f"{name}.weight", artifact.tensors[f"{name}.weight"]) for name in FORMATS}
    assert [name for name, reason in reasons.items() if not reason] == ["0", "2", "4"]
    assert "groups of 5" in reasons["6"]
    assert [scheme_of(artifact.encoded(f"{name}.weight")) for name in ("0", "2", "4")] == [
        (4, 32),
        (8, 0),
        (3, 0),
    ]
    affine = Int(scheme="affine").encode(np.float32([[0.1, 0.9], [0.2, 1.0]]))
    assert obstacle("a.weight", affine) == "its zero points are not 0"
    assert "8 bits" in obstacle("a.weight", Int(bits=12).encode(np.eye(3, dtype=np.float32)))
    assert "no matrix" in obstacle("a.weight", Int().encode(np.ones((2, 3, 1), np.float32)))


@pytest.mark.filterwarnings("ignore")
def test_the_library_reads_back_what_the_file_holds(tmp_path):
    pytest.importorskip(
        "compressed_tensors", reason="the extra compressed-tensors is not in dev: transformers"
    )
    from compressed_tensors.compressors.pack_quantized import unpack_from_int32
    from safetensors.torch import load_file

    artifact = made()
    written = write_packed(artifact, tmp_path / "out")
    assert set(written.floats) == {"6.weight"}
    tensors = load_file(written.paths[0])
    config = json.loads(written.paths[1].read_text())["quantization_config"]
    groups = {group["targets"][0]: group["weights"]["num_bits"] for group in config["config_groups"].values()}
    decoded = artifact.weights()
    for name, bits in groups.items():
        q = unpack_from_int32(tensors[f"{name}.weight_packed"], bits, tensors[f"{name}.weight_shape"])
        scale = tensors[f"{name}.weight_scale"]
        numbers = q.float() * scale.repeat_interleave(q.shape[1] // scale.shape[1], 1)
        assert np.array_equal(numbers.numpy(), decoded[f"{name}.weight"]), name
    assert np.array_equal(tensors["6.weight"].numpy(), decoded["6.weight"])


@pytest.mark.filterwarnings("ignore")
def test_a_file_without_integers_is_refused(tmp_path):
    pytest.importorskip(
        "compressed_tensors", reason="the extra compressed-tensors is not in dev: transformers"
    )
    x, y = torch.randn(40, 6), torch.randint(0, 2, (40,))
    task = Classification(nn.Linear(6, 2), train=(x, y), test=(x, y))
    artifact = compress(task, Recipe([Encode(format=Float("float16"))]), threads=1).artifact
    with pytest.raises(UnsupportedError, match="no tensor is a matrix of integers"):
        write_packed(artifact, tmp_path / "out")
    assert not (tmp_path / "out").exists()
