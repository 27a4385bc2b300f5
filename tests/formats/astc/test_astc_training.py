"""Compressed training: what is painted is what the bytes decode to, and gradients are those of the interpolation."""

import numpy as np
import pytest
import torch
from astc_oracle import oracle, random_blocks, read_astc
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tiny import Tiny

from featherweight.artifact import Contents, dumps, loads
from featherweight.errors import UnsupportedError
from featherweight.export.textures import write_textures
from featherweight.formats import Astc, Int, View
from featherweight.formats.astc.blocks import decode_texels
from featherweight.formats.astc.encode import infill
from featherweight.formats.astc.tables import FOOTPRINTS, MODES, partitions, size
from featherweight.formats.astc.trainable_blocks import levels, rounded, slopes, texture
from featherweight.model import Model
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Finetune, Sparsify
from featherweight.training.methods import AstcBlocks, Project

FORMATS = st.builds(
    Astc,
    footprint=st.sampled_from(["4x4", "6x5", "10x6", "12x12"]),
    channels=st.sampled_from([1, 4]),
    mode=st.sampled_from(["unorm8", "float16"]),
    per=st.sampled_from(["tensor", "channel"]),
)


def gaussian(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 0.1)


def made(format, shape, seed=0, **options):
    weight = gaussian(shape, seed)
    return AstcBlocks(**options).surrogate(weight, format.encode(weight.numpy())), weight


def shaken(surrogate, seed):
    """Move every parameter at random, ends in wrong order included."""
    with torch.no_grad():
        for parameter in surrogate.parameters():
            noise = torch.from_numpy(np.random.default_rng(seed).normal(size=parameter.shape))
            parameter.add_(0.3 * noise.float())
        surrogate.after_step(1)


@settings(max_examples=40, deadline=None)
@given(FORMATS, st.sampled_from([(7,), (9, 14), (5, 3, 3, 3), (1, 1), (0, 3)]), st.integers(0, 99))
def test_painted_is_decoded_bit_for_bit(format, shape, seed):
    surrogate, weight = made(format, shape, seed)
    assert surrogate().detach().numpy().tobytes() == format.encode(weight.numpy()).decode().tobytes()
    shaken(surrogate, seed)
    painted, frozen = surrogate().detach().numpy(), surrogate.freeze()
    assert frozen.decode().tobytes() == painted.tobytes()
    assert loads(dumps(Contents({"w": frozen}))).weight("w").tobytes() == painted.tobytes()


def test_on_a_transposed_view_in_groups():
    weight, view = gaussian((6, 4, 3, 3)), View((6, 4, 3, 3), permutation=(1, 0, 2, 3), groups=2)
    entry = Astc("5x4", per="tensor").encode(weight.numpy(), view=view)
    surrogate = AstcBlocks().surrogate(weight, entry)
    assert surrogate().detach().numpy().tobytes() == entry.decode().tobytes()
    assert surrogate.freeze().view == view


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("footprint", FOOTPRINTS)
def test_every_configuration_is_painted_as_it_decodes_and_rounds_to_itself(footprint, channels):
    blocks = in_order(random_blocks(footprint, channels, 0, np.random.default_rng(channels)))
    width, height = size(footprint)
    shape = (height, width * len(blocks.mode), channels)
    bytes_ = blocks.pack()[None]
    decoded = decode_texels(bytes_, footprint, slice(0, shape[0]), slice(0, shape[1]), channels)
    np.testing.assert_array_equal(texture(blocks, shape), decoded)
    again = rounded(blocks, *levels(blocks, channels))
    np.testing.assert_array_equal(again.endpoints, blocks.endpoints)
    np.testing.assert_array_equal(again.weights, blocks.weights)


def in_order(blocks):
    """Swap the ends of partitions whose colours would mean another thing, as an encoder does."""
    if (blocks.kind == 0).all():
        return blocks
    ends = levels(blocks, 4)[0].reshape(len(blocks.mode), 2, 4, 2)
    wrong = (ends[:, :, :3, 1].sum(2) < ends[:, :, :3, 0].sum(2))[:, :, None, None]
    integers = blocks.endpoints[:, :16].reshape(ends.shape)
    blocks.endpoints[:, :16] = np.where(wrong, integers[..., ::-1], integers).reshape(-1, 16)
    return blocks


@pytest.mark.parametrize(("footprint", "channels"), [("5x5", 1), ("8x6", 1), ("12x10", 1), ("6x6", 4)])
def test_the_gradient_is_that_of_the_interpolation(footprint, channels):
    """The oracle: torch's own derivative of the formula, written out with matrices."""
    blocks = in_order(random_blocks(footprint, channels, 30, np.random.default_rng(1)))
    width, height = size(footprint)
    slope = np.random.default_rng(2).normal(size=(height - 1, width * 30 - 2, channels)).astype(np.float32)
    padded = np.pad(slope, [(0, 1), (0, 2), (0, 0)]).reshape(height, 30, width, channels).swapaxes(0, 1)
    ends, grid = (torch.from_numpy(real).double().requires_grad_() for real in levels(blocks, channels))
    total = 0.0
    for n, weigh in enumerate(padded.reshape(30, -1, channels)):
        mode = grid_of(blocks.mode[n])
        shares = np.eye(width * height) if mode == (width, height) else infill(footprint, mode)
        mixed = torch.from_numpy(shares.T) @ grid[n, : mode[0] * mode[1]]
        partition = partitions(footprint)[blocks.partitions[n] - 1, blocks.seed[n]].astype(int)
        low, high = ends[n].reshape(-1, channels, 2)[partition].unbind(-1)
        texels = low + mixed[:, None] * (high - low)
        total = total + (torch.from_numpy(weigh) * texels).sum()
    total.backward()
    for found, expected in zip(slopes(blocks, slope), (ends.grad, grid.grad), strict=True):
        # the hardware rounds what it spreads to sixty-fourths
        np.testing.assert_allclose(found, expected.numpy(), atol=0.02 * np.abs(expected.numpy()).max())


def grid_of(mode):
    return tuple(MODES[mode, :2].tolist())


@pytest.mark.parametrize("channels", [1, 4])
def test_descent_comes_near_another_weight(channels):
    surrogate, _ = made(Astc("6x6", channels=channels, per="tensor"), (36, 72), every=10, share=0.02)
    target = gaussian((36, 72), 1)
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=0.01)
    losses = []
    for step in range(1, 60):
        loss = (surrogate() - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            surrogate.after_step(step)
        losses.append(loss.item())
    assert losses[-1] < (0.5 if channels == 1 else 0.8) * losses[0]


def test_a_search_lays_blocks_out_anew_where_that_is_nearer():
    surrogate, _ = made(Astc("6x6", per="tensor"), (36, 72), every=1, share=0.0)
    shaken(surrogate, 3)
    wished = [parameter.detach().clone() for parameter in surrogate.parameters()]
    names = ("mode", "partitions", "seed")
    before = [getattr(surrogate, name).clone() for name in names]
    surrogate.method = replace(surrogate.method, share=0.5)
    with torch.no_grad():
        surrogate.search()
    moved = (wished[0] != surrogate.ends).any(1) | (wished[1] != surrogate.grid).any(1)
    anew = torch.stack([old != getattr(surrogate, name) for old, name in zip(before, names, strict=True)])
    assert 0 < moved.sum() <= 0.5 * len(moved)
    assert anew.any() and not anew[:, ~moved].any()
    assert surrogate.freeze().decode().tobytes() == surrogate().detach().numpy().tobytes()


def test_a_checkpoint_restores_the_blocks():
    one, weight = made(Astc("6x6"), (12, 30), every=1, share=0.5)
    shaken(one, 1)
    other = AstcBlocks().surrogate(weight, Astc("6x6").encode(weight.numpy()))
    other.load(one.state())
    assert torch.equal(one(), other())


def test_only_blocks_of_ours_train():
    assert "blocks" in AstcBlocks().misfit(Int())
    assert "planes" in AstcBlocks().misfit(Astc(preset="astcenc"))
    assert AstcBlocks().misfit(Astc()) == ""


def test_the_step_ends_in_textures_of_the_trained_weights(tmp_path):
    task, format = Tiny(size=64), Astc("4x4", per="tensor")

    def apply(step, model):
        return step.apply(model, Restricted(task, step.needs), Context(seed=1))

    start = apply(Encode(format=format), Model.of(task.model()))
    tuned = apply(
        Finetune(format=format, method=AstcBlocks(every=2), epochs=3, optimizer="adam", lr=0.02), start
    )
    assert not torch.equal(tuned.tensors["8.weight"], start.tensors["8.weight"])
    said = write_textures(loads(dumps(Contents(dict(tuned.weights)))), tmp_path)
    for entry in said["textures"]:
        content, footprint, width, height = read_astc((tmp_path / entry["file"]).read_bytes())
        values = oracle(content, footprint, height, width, "unorm8")[:, :, 0] / np.float32(255)
        weight = values * np.float32(entry["scale"][0]) + np.float32(entry["offset"][0])
        trained = tuned.tensors[entry["tensor"]].detach().numpy()
        np.testing.assert_array_equal(weight.reshape(entry["shape"]), trained)


@pytest.mark.parametrize("method", [AstcBlocks(), Project()], ids=lambda method: type(method).__name__)
def test_zeros_that_would_not_stay_are_refused(method):
    task = Tiny(size=32)
    pruned = Sparsify(sparsity=0.5).apply(Model.of(task.model()), task, Context())
    step = Finetune(format=Astc("4x4"), method=method, keep_zeros=True)
    with pytest.raises(UnsupportedError, match=r"0\.weight: keep_zeros: astc has no exact zero to keep"):
        step.apply(pruned, task, Context())
