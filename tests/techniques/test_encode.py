"""Encoding: views, formats it has already, coders, and tensors that no format can take."""

import numpy as np
import pytest
import torch
from tiny import Tiny
from torch import nn

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import Clustered, Fixed, Int
from featherweight.formats.coders import QUICK, Gaps, Huffman
from featherweight.model import Model
from featherweight.techniques import Context, Encode

TASK = Tiny(size=64)


def encode(model, **options):
    return Encode(**options).apply(model, TASK, Context())


def test_selects_weights_and_leaves_the_rest():
    after = encode(Model.of(TASK.model()))
    assert set(after.weights) == {"0.weight", "4.weight", "8.weight"}
    assert after.notes == ()


def test_never_encodes_twice():
    once = encode(Model.of(TASK.model()), format=Clustered(bits=3))
    again = encode(once, format=Clustered(bits=3))
    assert all(again.weights[name].symbols is once.weights[name].symbols for name in once.weights)
    assert {(note.kind, note.name) for note in again.notes} == {("skipped", name) for name in once.weights}


def test_another_coder_is_another_coder_only():
    once = encode(Model.of(TASK.model()))
    again = encode(once, coder=Huffman())
    assert {entry.coder for entry in again.weights.values()} == {Huffman()}
    assert again.weights["0.weight"].decode().tobytes() == once.weights["0.weight"].decode().tobytes()
    assert {note.kind for note in again.notes} == {"chose"}
    assert "its coder changed, Fixed() to Huffman()" in again.notes[0].reason


def test_another_format_starts_from_decoded_values_and_says_so():
    once = encode(Model.of(TASK.model()), format=Int(bits=2), where="0.weight")
    again = encode(once, format=Int(bits=4), where="0.weight")
    assert [(note.kind, note.name) for note in again.notes] == [("thawed", "0.weight")]
    expected = Int(bits=4).encode(once.weights["0.weight"].decode()).decode()
    assert again.weights["0.weight"].decode().tobytes() == expected.tobytes()


def test_keeps_the_output_axis_of_a_transposed_convolution():
    after = encode(Model.of(nn.ConvTranspose2d(3, 5, 2)), where="weight")
    assert after.weights["weight"].view.rows == 5
    assert after.weights["weight"].parts["scale"].shape == (5,)


def test_smallest_takes_fewest_bytes():
    model = Model.of(TASK.model())
    sparse = model.with_tensors(
        {"4.weight": torch.where(torch.rand(8, 8, 3, 3) < 0.9, 0.0, model.tensors["4.weight"])}
    )
    chosen = encode(sparse, coder="smallest", format=Int(bits=5)).weights["4.weight"]
    others = [chosen.recoded(coder).nbytes for coder in QUICK if not coder.misfit(chosen.spec)]
    assert chosen.nbytes == min(others) < chosen.recoded(Fixed()).nbytes


@pytest.mark.parametrize(("damage", "message"), [
    (lambda m: m.get_parameter("4.weight").data.fill_(float("nan")), "4.weight: NaN or infinity"),
    (lambda m: m.double(), "0.weight: only float32 tensors are encoded: got float64"),
])  # fmt: skip
def test_names_the_tensor_that_cannot_be_encoded(damage, message):
    module = TASK.model()
    damage(module)
    with pytest.raises(UnsupportedError, match=message):
        encode(Model.of(module))


def test_a_glob_leaves_counters_alone():
    names = {"1.weight", "1.bias", "1.running_mean", "1.running_var"}
    assert set(encode(Model.of(TASK.model()), where="1.*").weights) == names


def test_names_the_tensor_whose_symbols_a_coder_cannot_take():
    module = TASK.model()
    with pytest.raises(UnsupportedError, match=r"8.weight: coder gaps cannot take its symbols"):
        encode(Model.of(module), where="8.weight", format=Clustered(), coder=Gaps())


def test_options_are_checked_in_code_as_in_recipes():
    with pytest.raises(ConfigError, match=r"encode.coder"):
        Encode(coder="small")
    for nothing in ("", [], [""]):
        with pytest.raises(ConfigError, match=r"encode.where"):
            Encode(where=nothing)
    with pytest.raises(ConfigError, match=r"where: matches no tensor"):
        encode(Model.of(TASK.model()), where="nothing")


def test_shares_what_it_leaves():
    model = Model.of(TASK.model())
    after = encode(model, where="0.weight")
    assert after.tensors["8.weight"] is model.tensors["8.weight"]
    assert not np.array_equal(after.tensors["0.weight"].detach(), model.tensors["0.weight"].detach())
