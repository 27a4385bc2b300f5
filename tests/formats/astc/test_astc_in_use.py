"""Astc as other parts meet it: steps, recipes, files, the command line, textures."""

import json
import re
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from astc_oracle import oracle, read_astc
from tiny import Tiny

from featherweight.artifact import Contents, Raw, dumps, load, loads
from featherweight.cli import main
from featherweight.errors import FeatherweightError, UnsupportedError
from featherweight.export.textures import write_textures
from featherweight.formats import AnyFormat, Astc, Encoded, Fixed, Int
from featherweight.formats.astc.blocks import write_astc
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Finetune
from featherweight.training.methods import Project

TASK = Tiny(size=64)


def gaussian(*shape):
    return (np.random.default_rng(0).normal(size=shape) * 0.1).astype(np.float32)


def apply(step, model):
    return step.apply(model, Restricted(TASK, step.needs), Context(seed=1))


def test_encode_and_projected_training_end_in_blocks():
    format = Astc(footprint="4x4", per="tensor")
    model = apply(Encode(format=format), Model.of(TASK.model()))
    tuned = apply(Finetune(format=format, method=Project(every=2), epochs=2, lr=0.5), model)
    for made in (model, tuned):
        assert {entry.format for entry in made.weights.values()} == {format}
        for name, entry in made.weights.items():
            np.testing.assert_array_equal(made.tensors[name].detach().numpy(), entry.decode())
        assert made.weights
    moved = tuned.tensors["8.weight"] - model.tensors["8.weight"]
    assert moved.abs().max() > 0.01


def test_a_rate_is_refused():
    with pytest.raises(UnsupportedError, match="neighbours"):
        apply(Encode(format=Astc(), coder="smallest", rate=0.1), Model.of(TASK.model()))


def test_as_a_recipe_writes_it():
    text = b'{"format": "astc", "footprint": "10x8", "channels": 4, "preset": "best"}'
    assert msgspec.json.decode(text, type=AnyFormat) == Astc("10x8", channels=4, preset="best")
    with pytest.raises(msgspec.ValidationError, match="footprint"):
        msgspec.json.decode(b'{"format": "astc", "footprint": "9x9"}', type=AnyFormat)


def test_through_a_file_and_damage_is_refused():
    encoded = Astc(footprint="5x5").encode(gaussian(12, 4, 3, 3))
    artifact = loads(dumps(Contents({"w": encoded})))
    np.testing.assert_array_equal(artifact.weight("w"), encoded.decode())
    np.testing.assert_array_equal(artifact.encoded("w").symbols, encoded.symbols)
    assert artifact.index().rows[0].label == "astc 5x5 1 unorm8 channel fast"
    broken = encoded.symbols.copy()
    broken[:16] = 0
    with pytest.raises(FeatherweightError, match="malformed ASTC block 0"):
        dumps(Contents({"w": Encoded(encoded.format, Fixed(), encoded.view, broken, encoded.parts)}))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("textures")
    tensors = {
        "conv.weight": Astc(footprint="6x5").encode(gaussian(7, 3, 3, 3)),
        "../fc": Astc(footprint="4x4", channels=4, mode="float16", per="tensor").encode(gaussian(6, 17)),
        "bias": Raw.of(gaussian(7)),
        "int": Int().encode(gaussian(3, 4)),
    }
    (folder / "model.fw").write_bytes(dumps(Contents(tensors)))
    said = write_textures(load(folder / "model.fw"), folder / "out")
    return folder, tensors, said


def test_textures_and_sidecar_give_the_weights_without_us(exported):
    """Arm's decoder, the sidecar and one multiplication and addition: the same float32 weights."""
    folder, tensors, said = exported
    assert json.loads((folder / "out" / "textures.json").read_text()) == json.loads(msgspec.json.encode(said))
    assert said["elsewhere"] == ["bias", "int"]
    assert len(list(folder.rglob("*.astc"))) == len(list((folder / "out").glob("*.astc"))) == 2
    for entry in said["textures"]:
        content, footprint, width, height = read_astc((folder / "out" / entry["file"]).read_bytes())
        texels = oracle(content, footprint, height, width, entry["mode"])[:, :, : entry["channels"]]
        values = texels / np.float32(255) if entry["mode"] == "unorm8" else texels.view(np.float16)
        values = values.astype(np.float32).reshape(height, -1)[:, : entry["columns"]]
        sharing = entry["rows"] // len(entry["offset"])
        scale, offset = (
            np.repeat(np.array(entry[k], np.float32), sharing)[:, None] for k in ("scale", "offset")
        )
        weight = (values * scale + offset).reshape(entry["shape"])
        np.testing.assert_array_equal(weight, tensors[entry["tensor"]].decode())


def test_the_command_line_writes_them(exported, tmp_path, monkeypatch, capsys):
    folder, _, said = exported
    command = ["featherweight", "export", folder / "model.fw", "--to", "astc", "-o", tmp_path, "--json"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert (
        json.loads(capsys.readouterr().out)["textures"] == json.loads(msgspec.json.encode(said))["textures"]
    )
    assert (tmp_path / "textures.json").exists()


def test_a_file_without_blocks_has_no_textures(tmp_path):
    with pytest.raises(UnsupportedError, match="no tensor is in ASTC blocks"):
        write_textures(loads(dumps(Contents({"bias": Raw.of(gaussian(7))}))), tmp_path)


def test_astc_files_say_footprint_and_size():
    content = np.arange(96, dtype=np.uint8).reshape(2, 3, 16)
    file = write_astc(content, "6x5", 17, 9)
    found, footprint, width, height = read_astc(file)
    assert (footprint, width, height) == ("6x5", 17, 9)
    np.testing.assert_array_equal(found, content)
    with pytest.raises(UnsupportedError):
        write_astc(content, "6x5", 1 << 24, 9)


def test_the_pages_python_runs():
    page = Path(__file__).parents[3] / "docs" / "concepts" / "astc.md"
    found = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        exec(compile(block, "astc.md", "exec"), found)
    assert len(found["encoded"].payload) == 16 * 43 * 86
    np.testing.assert_array_equal(found["corner"], found["weight_that_runs"][:12, :12])
