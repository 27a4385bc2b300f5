"""Encoding: views, formats it has already, coders, and tensors that no format can take."""

import numpy as np
import pytest
import torch
from tiny import Tiny
from torch import nn

from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import Clustered, Fixed, Float, Int
from featherweight.formats.coders import QUICK, Cabac, Gaps, Huffman, Rans
from featherweight.model import Model
from featherweight.techniques import Context, Encode, Finetune, Gptq

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


def test_a_rate_of_nothing_is_nearest_rounding():
    model = Model.of(TASK.model())
    plain, rated = (encode(model, coder=Huffman(), **options) for options in ({}, {"rate": 0.0}))
    for name, entry in plain.weights.items():
        assert rated.weights[name].payload == entry.payload


@pytest.mark.parametrize("coder", [Huffman(), Cabac(), "smallest"], ids=str)
def test_a_rate_saves_bytes_and_keeps_zeros(coder):
    model = Model.of(TASK.model())
    mask = torch.rand(8, 8, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.9
    model = model.with_tensors({"4.weight": model.tensors["4.weight"].masked_fill(mask, 0.0)})
    options = {"where": "4.weight", "format": Int(bits=4, per="tensor"), "coder": coder}
    nearest, rated = (encode(model, rate=rate, **options).weights["4.weight"] for rate in (0.0, 0.05))
    assert rated.nbytes < nearest.nbytes
    assert not rated.decode()[mask.numpy()].any()


def test_a_rate_reassigns_a_tensor_under_the_codebook_it_has():
    once = encode(Model.of(TASK.model()), format=Clustered(bits=4), where="4.weight")
    again = encode(once, format=Clustered(bits=4), where="4.weight", coder=Rans(), rate=0.2)
    before, after = once.weights["4.weight"], again.weights["4.weight"]
    assert after.parts is before.parts
    assert after.nbytes < before.recoded(Rans()).nbytes
    assert [(note.kind, note.name) for note in again.notes] == [("thawed", "4.weight")]
    assert "% of its symbols changed" in again.notes[0].reason


def test_a_rate_needs_a_coder_and_a_format_that_can_use_it():
    with pytest.raises(ConfigError, match=r"encode.rate: means nothing at fixed rate"):
        Encode(rate=0.1)
    with pytest.raises(ConfigError, match=r"encode.rate"):
        Encode(rate=-0.1, coder=Rans())
    with pytest.raises(UnsupportedError, match=r"0.weight: format float does not say"):
        encode(Model.of(TASK.model()), format=Float(), coder=Rans(), rate=0.1)


FLOAT16 = Float(kind="float16")


@pytest.mark.parametrize(("step", "name"), [
    (Encode(where=["*", "!weights"], format=FLOAT16), "1.running_var"),
    (Gptq(where=["0.weight", "4.weight"], format=FLOAT16), "0.weight"),
    (Gptq(where=["4.weight", "8.bias"], format=FLOAT16), "8.bias"),
    (Finetune(where=["0.weight", "4.weight"], format=FLOAT16, epochs=1, lr=1e-9), "0.weight"),
])  # fmt: skip
def test_what_float16_cannot_hold_stays_float32_with_a_note(step, name):
    model = Model.of(TASK.model())
    value = model.tensors[name].detach().clone()
    value.view(-1)[0] = 653_746.0
    model = model.with_tensors({name: value})
    after = step.apply(model, TASK, Context())
    assert name not in after.weights and len(after.weights) > 0
    assert float(after.tensors[name].detach().max()) == pytest.approx(653_746)
    (note,) = [note for note in after.notes if note.name == name]
    assert note.kind == "skipped" and "beyond the 65504 of float16" in note.reason
