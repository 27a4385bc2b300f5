"""The step `prune` on transformers: every saliency, what is refused and why, files, classes of other libraries."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import attention_networks as networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from structured_networks import Images
from torch import nn

from featherweight import Agreement
from featherweight.artifact import dumps, loads
from featherweight.errors import UnsupportedError
from featherweight.formats import Int
from featherweight.graph.channels import couple
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Prune, Reorder, Widen
from featherweight.techniques.prune import select
from featherweight.techniques.saliencies import (
    Fisher,
    Fpgm,
    Hrank,
    Magnitude,
    Obd,
    Slimming,
    SospH,
    SospI,
    Taylor,
)
from featherweight.techniques.surgery import computed, pruned, silenced


@dataclass(frozen=True)
class Sentences(Images):
    """Random sentences of three kinds."""

    make: Any = networks.Bert
    dtype: torch.dtype = torch.float32

    def model(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.make().to(self.dtype).eval()

    def _data(self, split):
        generator = torch.Generator().manual_seed(len(split))
        tokens = torch.randint(1, 11, (self.size, 6), generator=generator)
        tokens[::3, 4:] = 0
        return tokens, torch.randint(0, 3, (self.size,), generator=generator)


class Pictures(Sentences):
    _data = Images._data


@cache
def traced(kind, make):
    task = kind(make)
    model = Model.of(task.model())
    return model, couple(model.program(task.example()).graph)


def whole(task):
    """The model of a task and its coupled channels; traced once."""
    return traced(type(task), task.make)


def prune(task, **options):
    step = Prune(**{"saliency": Magnitude(), "keep": 0.6, **options})
    return step.apply(whole(task)[0], Restricted(task, step.needs), Context())


def chosen(model):
    return {note.name: note.reason for note in model.notes if note.kind == "chose"}


def skipped(model):
    return {note.name: note.reason for note in model.notes if note.kind == "skipped"}


SALIENCIES = [
    Magnitude(),
    Magnitude(norm=1, relative="lamp"),
    Fpgm(),
    Taylor(),
    Fisher(),
    Obd(),
    SospH(),
    SospI(),
]


@pytest.mark.parametrize("saliency", SALIENCIES, ids=lambda saliency: type(saliency).__name__)
def test_every_saliency_scores_heads_and_channels(saliency):
    task = Pictures(networks.Vit)
    model, channels = whole(task)
    scores = saliency.scores(model, channels, Restricted(task, saliency.needs), 0)
    assert np.isfinite(scores.linear).all() and all(group.any() for group in channels.split(scores.linear))
    kept = select(scores, channels, channels.macs, 0.6 * channels.macs(np.ones(channels.count, bool)))
    assert all(group.any() for group in channels.split(kept)) and not kept.all()


def test_a_head_is_scored_by_a_factor_on_what_the_last_projection_reads():
    task = Sentences(batch=24, dtype=torch.float64)
    model = Model.of(task.model())
    channels = whole(Sentences())[1].only([0])
    tokens, labels = task._data("train")
    gates = torch.ones(24, 3, dtype=torch.float64, requires_grad=True)
    module = task.model()
    module.blocks[0].out.register_forward_pre_hook(
        lambda _, inputs: inputs[0] * gates.repeat_interleave(4, 1)[:, None]
    )
    (g,) = torch.autograd.grad(F.cross_entropy(module(tokens), labels, reduction="sum"), gates)
    g = g.numpy()
    exact = {"rtol": 1e-9, "atol": 1e-15}
    np.testing.assert_allclose(Fisher().scores(model, channels, task, 0).linear, (g**2).mean(0) / 2, **exact)
    np.testing.assert_allclose(Taylor().scores(model, channels, task, 0).linear, g.mean(0) ** 2, **exact)
    np.testing.assert_allclose(SospI().scores(model, channels, task, 0).linear, np.abs(g.mean(0)), **exact)


def test_ranks_and_batch_norms_are_refused_by_name():
    with pytest.raises(
        UnsupportedError, match=r"blocks.0.query: .*heads of attention, which have no feature map"
    ):
        prune(Sentences(), saliency=Hrank())
    with pytest.raises(UnsupportedError, match=r"blocks.0.query: no batch norm"):
        prune(Sentences(), saliency=Slimming())


def test_one_head_and_one_channel_stay():
    task = Sentences()
    channels = whole(task)[1]
    model = prune(task, keep=len(channels.groups) / channels.count, of="channels")
    assert set(chosen(model).values()) == {"keeps 1 of 3 heads", "keeps 1 of 10 channels"}


def test_a_multiple_is_of_channels_not_of_heads():
    found = chosen(prune(Sentences(), keep=0.5, of="channels", multiple=4))
    assert {found[f"blocks.{n}.up"].split()[1] for n in (0, 1)} <= {"4", "8", "10"}
    assert min(int(found[f"blocks.{n}.query"].split()[1]) for n in (0, 1)) < 3


class Even(networks.WrongVit):
    """Attends to all alike, whatever its heads are."""

    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.qkv.weight.data[:32] = 0
            block.qkv.bias.data[:32] = 0


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (networks.TimmVit, "shape '[2, 5, 3, 3, 4]' is invalid"),
        (networks.WrongVit, "does not compute the same"),
        (Even, "with one fewer, view in blocks.0 makes 4 of them, not 3"),
    ],
)
def test_a_number_of_heads_in_the_code_is_found_and_channels_are_still_pruned(make, found):
    """With -1 for the size of a head, fewer of them run, and compute something else, or happen not to."""
    task = Pictures(make)
    model = prune(task, keep=0.9)
    assert chosen(model).keys() == {"blocks.0.mlp.0", "blocks.1.mlp.0"}
    reason = skipped(model)["blocks.0.qkv"]
    assert reason.startswith("keeps its heads: ") and "write -1" in reason
    assert found in reason
    assert model.module.blocks[0].qkv.out_features == task.model().blocks[0].qkv.out_features


def test_a_small_difference_is_told_from_rounding():
    """What depends on the width, in a branch that says little, is no rounding."""

    class Quiet(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = (
                nn.Linear(16, 6),
                nn.Linear(6, 3),
                nn.Linear(16, 6),
                nn.Linear(6, 3),
            )

        def forward(self, x):
            x = x.flatten(1)
            y = torch.relu(self.a(x))
            return 3e-3 * self.b(y / y.shape[1]) + self.d(torch.relu(self.c(x)))

    model = prune(Pictures(Quiet), keep=0.8)
    assert "does not compute the same" in skipped(model)["a"]
    assert chosen(model).keys() == {"c"}


def test_a_loss_without_slope_is_said():
    """A network that is compared with itself, by values, has no first derivatives."""
    x = torch.randn(8, 16)
    network = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    task = Agreement(network, train=x, test=x, outputs="values")
    for saliency in (Taylor(samples=4), Fisher(samples=4)):
        with pytest.raises(UnsupportedError, match=r"all its scores are zero.*\n?.*sosp_i"):
            Prune(keep=0.6, saliency=saliency).apply(Model.of(network), task, Context())
    model = Prune(keep=0.6, saliency=SospI(samples=4)).apply(Model.of(network), task, Context())
    assert chosen(model).keys() == {"0"}


def test_nothing_to_prune_says_so():
    class Only(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.mix = nn.Embedding(11, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, tokens):
            x = self.words(tokens)
            return self.head(x + self.mix(x, x, x, need_weights=False)[0]).mean(1)

    model = prune(Sentences(Only))
    assert "none of its channels can go" in skipped(model)["prune"]
    assert "(MultiheadAttention) is no plain layer" in skipped(model)["mix.in_proj_weight"]


def test_a_file_of_a_pruned_encoded_transformer_fills_the_tasks_own():
    task = Sentences()
    model = Encode(format=Int(bits=8)).apply(prune(task), task, Context())
    filled = loads(dumps(pack(model))).into(task.model())
    assert filled.blocks[0].query.out_features < 12
    torch.testing.assert_close(filled(task.example()), model.module(task.example()), rtol=0, atol=0)


@pytest.mark.parametrize("step", [Reorder(), Widen(where="weights"), Prune(keep=0.7, saliency=Magnitude())])
@pytest.mark.parametrize("make", [networks.Llama])
def test_other_steps_on_heads_and_pruning_again(make, step):
    task = Sentences(make)
    before = prune(task, keep=0.8)
    model = step.apply(before, task, Context())
    if not isinstance(step, Prune):
        torch.testing.assert_close(
            model.module(task.example()), before.module(task.example()), rtol=1e-4, atol=1e-4
        )
    assert any("heads" in reason for reason in chosen(model).values())


def configured(name):
    """A small network of `transformers`, with random weights."""
    library = pytest.importorskip("transformers")
    small: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    configs: dict[str, tuple[str, dict[str, Any]]] = {
        "BertModel": ("BertConfig", {"vocab_size": 11, "intermediate_size": 20}),
        "ViTModel": (
            "ViTConfig",
            {"image_size": 4, "patch_size": 2, "num_channels": 1, "intermediate_size": 20},
        ),
        "LlamaModel": (
            "LlamaConfig",
            {"vocab_size": 11, "intermediate_size": 20, "num_key_value_heads": 2, "use_cache": False},
        ),
        "GPT2Model": (
            "GPT2Config",
            {"vocab_size": 11, "n_embd": 16, "n_layer": 1, "n_head": 4, "use_cache": False},
        ),
    }
    config, options = configs[name]
    torch.manual_seed(0)
    return getattr(library, name)(
        getattr(library, config)(**({} if name == "GPT2Model" else small), **options)
    ).eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BertModel", "LlamaModel", "ViTModel", "GPT2Model"])
def test_networks_of_transformers(name):
    """Heads go where the forward writes -1 for them; elsewhere they stay, and a note says why."""
    module = configured(name)

    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(x).last_hidden_state

    example = torch.randn(4, 1, 4, 4) if name == "ViTModel" else torch.randint(1, 11, (4, 6))
    task = Agreement(First(), train=example, test=example)
    model = Prune(keep=0.6, of="channels", saliency=Magnitude()).apply(
        Model.of(task.model()), task, Context()
    )
    found, why = chosen(model), skipped(model)
    if name != "GPT2Model":
        assert sum("heads" in reason for reason in found.values()) == 2
        assert sum("channels" in reason for reason in found.values()) == 2
    else:
        assert "Conv1D" in " ".join(why.values())
    channels = couple(Model.of(task.model()).program(task.example()).graph)
    channels = channels.only([n for n, group in enumerate(channels.groups) if group.name in found])
    if channels.groups:
        stays = [np.isin(np.arange(g.size), np.arange(g.size)[: g.size // 2]) for g in channels.groups]
        kept = np.concatenate(stays)
        model = Model.of(task.model())
        small, silent = (computed(made(model, channels, kept), example)[0] for made in (pruned, silenced))
        assert float((small - silent).abs().max()) <= 1e-5 * float(silent.abs().max())
