"""Weights as GGUF, read back by the library `gguf`, and turned as a file of the same network has them."""

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from featherweight import Agreement, Recipe, compress
from featherweight.artifact import load
from featherweight.deploy.gguf import Layout, blocks_of, obstacle, write_gguf
from featherweight.errors import IntegrityError, UnsupportedError, WriteError
from featherweight.formats import Clustered, Encoded, Float, Int, View
from featherweight.techniques import Encode, Gptq

gguf = pytest.importorskip("gguf", reason="the extra gguf is not installed")

HIDDEN, HEADS, SHARED, WORDS = 64, 4, 2, 96


def half(bits, scheme="symmetric", per=32):
    return Int(bits=bits, scheme=scheme, per=per, scale_by="mse", scale_type="float16")


KINDS = {
    "Q4_0": half(4), "Q8_0": half(8), "Q5_0": half(5), "Q4_1": half(4, "affine"), "Q5_1": half(5, "affine"),
    "F16": Float("float16"), "BF16": Float("bfloat16"), "F32": Clustered(bits=4),
}  # fmt: skip


class Block(nn.Module):
    """The tensors of a layer of Llama, by their names of Hugging Face; each is used."""

    def __init__(self):
        super().__init__()
        part = HIDDEN * SHARED // HEADS
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(HIDDEN, HIDDEN, bias=False), "k_proj": nn.Linear(HIDDEN, part, bias=False),
                "v_proj": nn.Linear(HIDDEN, part, bias=False), "o_proj": nn.Linear(HIDDEN, HIDDEN, bias=False),
            }
        )  # fmt: skip
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(HIDDEN), nn.RMSNorm(HIDDEN)
        self.mlp = nn.ModuleDict(
            {
                "gate_proj": nn.Linear(HIDDEN, 2 * HIDDEN, bias=False),
                "up_proj": nn.Linear(HIDDEN, 2 * HIDDEN, bias=False),
                "down_proj": nn.Linear(2 * HIDDEN, HIDDEN, bias=False),
            }
        )

    def forward(self, x):
        y = self.input_layernorm(x)
        query, key, value = (self.self_attn[name](y) for name in ("q_proj", "k_proj", "v_proj"))
        x = x + self.self_attn["o_proj"](query * torch.cat([key, value], -1))
        y = self.post_attention_layernorm(x)
        return x + self.mlp["down_proj"](self.mlp["gate_proj"](y).sigmoid() * self.mlp["up_proj"](y))


class Decoder(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.model = nn.ModuleDict(
            {"embed_tokens": nn.Embedding(WORDS, HIDDEN), "layers": nn.ModuleList([Block(), Block()]),
             "norm": nn.RMSNorm(HIDDEN)}
        )  # fmt: skip
        self.lm_head = nn.Linear(HIDDEN, WORDS, bias=False)
        if tied:
            self.lm_head.weight = self.model["embed_tokens"].weight

    def forward(self, tokens):
        x = self.model["embed_tokens"](tokens)
        for layer in self.model["layers"]:
            x = layer(x)
        return self.lm_head(self.model["norm"](x))


class Wrapped(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, tokens):
        return self.network(tokens)


def artifact_of(network, steps, tmp_path):
    torch.manual_seed(0)
    tokens = torch.randint(WORDS, (24, 6))
    made = compress(Agreement(network, train=tokens[:16], test=tokens[16:]), Recipe(steps), threads=1)
    made.save(tmp_path / "model.fw")
    return load(tmp_path / "model.fw")


def decoder(tied=True):
    torch.manual_seed(1)
    return Decoder(tied)


def in_turns(weight, heads):
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def published(network, path, turned=True):
    """A file as llama.cpp's converter writes it: float16, the halves of heads in turns, metadata."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_token_list([f"word{n}" for n in range(WORDS)])
    writer.add_float32("llama.rope.freq_base", 1e4)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in network.named_parameters():
        array = tensor.detach().numpy()
        if turned and ("q_proj" in name or "k_proj" in name):
            array = in_turns(array, HEADS if "q_proj" in name else SHARED)
        writer.add_tensor(
            known.get_name(name, (".weight",)), array.astype(np.float16 if array.ndim > 1 else np.float32)
        )
    writer.add_tensor("rope_freqs.weight", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(path):
    tensors = gguf.GGUFReader(path).tensors
    kinds = {tensor.name: tensor.tensor_type.name for tensor in tensors}
    return kinds, {t.name: np.array(gguf.dequantize(t.data, t.tensor_type)) for t in tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_read_back(kind, tmp_path):
    artifact = artifact_of(decoder(tied=False), [Encode(format=KINDS[kind])], tmp_path)
    written = write_gguf(artifact, tmp_path / "model.gguf")
    kinds, values = read(tmp_path / "model.gguf")
    matrices = {name for name, array in artifact.weights().items() if array.ndim == 2}
    assert {kinds[name] for name in matrices} == {kind}
    assert {kinds[name] for name in kinds if name not in matrices} == {"F32"}
    assert set(written.floats) == (matrices if kind == "F32" else set())
    for name, array in artifact.weights().items():
        assert values[name].tobytes() == array.tobytes(), name


def test_fewer_bits_and_longer_groups_are_said_in_wider_blocks(tmp_path):
    steps = [
        Encode(where="*q_proj.weight", format=half(3, per=64)),
        Encode(where="*k_proj.weight", format=half(7, per="channel")),
        Encode(where="*v_proj.weight", format=half(3, "affine", per="channel")),
        Encode(where="*o_proj.weight", format=half(4, per=16)),
    ]
    artifact = artifact_of(decoder(), steps, tmp_path)
    written = write_gguf(artifact, tmp_path / "model.gguf")
    kinds, values = read(tmp_path / "model.gguf")
    found = [
        kinds[f"model.layers.0.self_attn.{name}.weight"] for name in ("q_proj", "k_proj", "v_proj", "o_proj")
    ]
    assert found == ["Q4_0", "Q8_0", "Q4_1", "F32"]
    assert written.floats["model.layers.0.self_attn.o_proj.weight"].startswith("its groups of 16")
    weights = artifact.weights()
    assert all(values[name].tobytes() == weights[name].tobytes() for name in values)


def test_what_gguf_cannot_say():
    weight, axes = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32), Layout((0, 1))
    assert obstacle(half(4).encode(weight), axes) == ""
    assert "whole blocks" in obstacle(half(4).encode(weight[:, :48]), axes)
    assert "at most 8 bits" in obstacle(Int(bits=9, per=32).encode(weight), axes)
    assert "with a minimum" in obstacle(Int(bits=8, per=32, scheme="affine").encode(weight + 1), axes)
    sideways = half(4).encode(weight.T.copy(), view=View((64, 4), permutation=(1, 0)))
    assert "no matrix" in obstacle(sideways, axes)
    assert obstacle(sideways, Layout((1, 0))) == ""
    assert "no matrix" in obstacle(half(4).encode(weight.reshape(4, 8, 8)), Layout((0, 1, 2)))


def test_scales_of_float32_are_refused_with_the_option(tmp_path):
    artifact = artifact_of(decoder(), [Encode(format=Int(bits=4, per=32))], tmp_path)
    with pytest.raises(UnsupportedError, match=r"no float16 numbers(.|\n)*scale_type"):
        write_gguf(artifact, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_metadata_names_and_turned_heads_are_those_of_a_file_of_the_network(wrapped, tied, tmp_path):
    network = decoder(tied)
    source = published(network, tmp_path / "source.gguf")
    steps = [
        Encode(where="*embed_tokens*", format=half(8)),
        Gptq(where=["weights", "!*embed_tokens*"], format=half(4, "affine")),
    ]
    artifact = artifact_of(Wrapped(network) if wrapped else network, steps, tmp_path)
    write_gguf(artifact, tmp_path / "model.gguf", source)
    kinds, values = read(tmp_path / "model.gguf")
    theirs, _ = read(source)
    assert list(kinds)[:-1] == [name for name in theirs if name != "rope_freqs.weight"]
    assert "output.weight" in kinds if not tied else "output.weight" not in kinds
    assert (kinds["token_embd.weight"], kinds["blk.1.attn_k.weight"], kinds["blk.0.attn_norm.weight"]) == (
        "Q8_0", "Q4_1", "F32",
    )  # fmt: skip
    prefix = "network." if wrapped else ""
    own = artifact.weights()
    query = own[f"{prefix}model.layers.1.self_attn.q_proj.weight"]
    assert values["blk.1.attn_q.weight"].tobytes() == in_turns(query, HEADS).tobytes()
    key = own[f"{prefix}model.layers.1.self_attn.k_proj.weight"]
    assert values["blk.1.attn_k.weight"].tobytes() == in_turns(key, SHARED).tobytes()
    down = own[f"{prefix}model.layers.0.mlp.down_proj.weight"]
    assert values["blk.0.ffn_down.weight"].tobytes() == down.tobytes()
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["general.architecture"].contents() == "llama"
    assert fields["tokenizer.ggml.tokens"].contents()[5] == "word5"
    assert fields["llama.rope.freq_base"].contents() == 1e4
    assert fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_1


def test_a_layout_is_seen_in_the_numbers(tmp_path):
    """A file whose heads are not turned gets heads that are not."""
    source = published(decoder(), tmp_path / "source.gguf", turned=False)
    artifact = artifact_of(decoder(), [Encode(format=half(8))], tmp_path)
    write_gguf(artifact, tmp_path / "model.gguf", source)
    query = artifact.weight("model.layers.0.self_attn.q_proj.weight")
    assert read(tmp_path / "model.gguf")[1]["blk.0.attn_q.weight"].tobytes() == query.tobytes()


def test_metadata_of_another_network_are_refused(tmp_path):
    artifact = artifact_of(decoder(), [Encode(format=half(8))], tmp_path)
    torch.manual_seed(9)
    other = published(Decoder(), tmp_path / "other.gguf")
    with pytest.raises(UnsupportedError, match="not near those of"):
        write_gguf(artifact, tmp_path / "model.gguf", other)
    untied = published(Decoder(tied=False), tmp_path / "untied.gguf")
    with pytest.raises(UnsupportedError, match="not near those of"):
        write_gguf(artifact, tmp_path / "model.gguf", untied)
    (tmp_path / "text.gguf").write_text("no such thing")
    with pytest.raises(IntegrityError, match="no GGUF file"):
        write_gguf(artifact, tmp_path / "model.gguf", tmp_path / "text.gguf")
    with pytest.raises(IntegrityError, match="no GGUF file"):
        write_gguf(artifact, tmp_path / "model.gguf", tmp_path / "absent.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_networks_of_other_tensors_are_refused(tmp_path):
    network = decoder()
    source = published(network, tmp_path / "source.gguf")
    network.model["layers"] = network.model["layers"][:1]
    fewer = artifact_of(network, [Encode(format=half(8))], tmp_path)
    with pytest.raises(UnsupportedError, match=r"tensors that the file has not: got blk\.1"):
        write_gguf(fewer, tmp_path / "model.gguf", source)
    other = artifact_of(nn.Sequential(nn.Embedding(WORDS, 32), nn.Linear(32, 2)), [Encode()], tmp_path)
    with pytest.raises(UnsupportedError, match="no name that gguf knows"):
        write_gguf(other, tmp_path / "model.gguf", source)


def test_a_file_that_is_read_back_otherwise_is_not_written(tmp_path, monkeypatch):
    artifact = artifact_of(decoder(), [Encode(format=half(4))], tmp_path)
    real = gguf.dequantize
    monkeypatch.setattr(gguf, "dequantize", lambda *given: real(*given) * np.float32(1 + 2e-7))
    with pytest.raises(UnsupportedError, match="read back as other numbers"):
        write_gguf(artifact, tmp_path / "model.gguf")
    monkeypatch.undo()
    (tmp_path / "taken.gguf").mkdir()
    with pytest.raises(WriteError):
        write_gguf(artifact, tmp_path / "taken.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"model.fw", "taken.gguf"}


def test_vectors_and_odd_types_have_a_type_there(tmp_path):
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(12, 3, 4, 4)
    task = Agreement(layers.eval(), train=images, test=images)
    steps = [Encode(where=["weights", "*bias"], format=Float("float16"))]
    artifact = compress(task, Recipe(steps), threads=1).artifact
    write_gguf(artifact, tmp_path / "model.gguf")
    kinds, values = read_raw(tmp_path / "model.gguf")
    assert kinds["0.weight"] == "F16"
    assert kinds["0.bias"] == "F32"
    assert kinds["1.num_batches_tracked"] == "I64"
    assert values["0.weight"].shape == (4, 3, 3, 3)


def read_raw(path):
    tensors = gguf.GGUFReader(path).tensors
    return {t.name: t.tensor_type.name for t in tensors}, {t.name: t.data for t in tensors}


def test_names_too_long_are_refused_without_metadata(tmp_path):
    name = "a" * 60
    network = nn.Sequential()
    network.add_module("embedding", nn.Embedding(WORDS, 32))
    network.add_module(name, nn.Linear(32, 2))
    artifact = artifact_of(network, [Encode(format=half(8))], tmp_path)
    with pytest.raises(UnsupportedError, match="a name too long for ggml"):
        write_gguf(artifact, tmp_path / "model.gguf")


def test_blocks_say_what_the_library_rounds_to_as_well():
    """Where the library's own quantizer and ours agree on the scale, the bytes are the same."""
    steps = np.random.default_rng(3).integers(-127, 128, (8, 64))
    steps[:, ::32] = 127
    weight = (steps * 2.0**-9).astype(np.float32)
    theirs = gguf.quantize(weight, gguf.GGMLQuantizationType.Q8_0)
    scale = np.full((8, 2), 2.0**-9, np.float16)
    encoded = half(8).encode(weight, parts={"scale": scale})
    assert isinstance(encoded, Encoded)
    kind, packed = blocks_of(encoded, "weight")
    assert (kind, packed.tobytes()) == ("Q8_0", theirs.tobytes())
    assert msgspec.to_builtins(encoded.format)["scale_type"] == "float16"
