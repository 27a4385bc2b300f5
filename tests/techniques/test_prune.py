"""The step `prune`: what it leaves, what it refuses, what it notes; files of it load."""

import re

import numpy as np
import pytest
import torch
from networks import HardReshape
from structured_networks import Images, Joined, Mlp, Plain, Residual, SmallViT, coupled, random
from torch import nn

from featherweight.artifact import dumps, loads
from featherweight.errors import ConfigError, UnsupportedError
from featherweight.formats import Int
from featherweight.graph.channels import couple
from featherweight.model import Model
from featherweight.packing import pack
from featherweight.task import Restricted
from featherweight.techniques import Context, Encode, Factorize, Prune, Widen
from featherweight.techniques.lowrank import Given
from featherweight.techniques.saliencies import Fpgm, Hrank, Magnitude, Slimming
from featherweight.techniques.saliencies.values import distances


def task_of(make):
    return Images(make, dtype=torch.float32)


def prune(make, **options):
    task = task_of(make)
    step = Prune(**{"saliency": Magnitude(), **options})
    return step.apply(Model.of(task.model()), Restricted(task, step.needs), Context())


def kept(model):
    return {note.name: note.reason for note in model.notes if note.kind == "chose"}


def skipped(model):
    return {note.name: note.reason for note in model.notes if note.kind == "skipped"}


@pytest.mark.parametrize("of", ["macs", "parameters", "channels"])
def test_the_share_that_is_left(of):
    model, channels = prune(Joined, keep=0.9, of=of), coupled(Joined)
    whole = {"macs": channels.macs, "parameters": channels.parameters, "channels": np.sum}[of]
    assert "keeps" in kept(model)["a"]
    if of == "parameters":
        left = sum(p.numel() for p in model.module.parameters())
        assert left <= 0.9 * whole(np.ones(channels.count, bool))


def test_needs_are_those_of_the_saliency():
    assert Prune(keep=0.5).needs == "labelled"
    assert Prune(keep=0.5, saliency=Fpgm()).needs == "none"


def test_a_vit_loses_neurons_of_its_mlps_and_says_why_nothing_else():
    model = prune(SmallViT, keep=0.5, of="channels")
    assert kept(model).keys() == {"blocks.layers.0.linear1", "blocks.layers.1.linear1"}
    assert "normalised over" in skipped(model)["patches"]
    assert model.module.blocks.layers[0].linear1.out_features < 16


def test_a_size_written_out_is_found_by_trying():
    class Net(HardReshape):
        def forward(self, x):
            return super().forward(x.expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3))

    assert "changed network fails" in skipped(prune(Net, keep=0.9))["conv"]


def test_a_layer_whose_code_depends_on_the_width_is_found_by_trying():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(16, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = torch.relu(self.a(x.flatten(1)))
            return self.c(torch.relu(self.b(x)) / x.shape[1])

    model = prune(Scaled, keep=0.8)
    assert "does not compute the same" in skipped(model)["a"]
    assert kept(model).keys() == {"b"}


def test_an_operator_of_ones_own_is_no_traceback():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.a(x.flatten(1))
            return self.b(torch.linalg.qr(x.T).Q.T if x.shape[0] > 9 else torch.cumsum(x, 1))

    model = prune(Own, keep=0.8)
    assert "cumsum" in skipped(model)["a"]
    assert not kept(model)


def test_where_says_which_layers_lose_channels():
    model = prune(Plain, keep=0.9, where=["weights", "!one.*"])
    assert kept(model).keys() == {"two"}
    assert model.module.one.out_channels == 3


def test_encoded_tensors_are_thawed_and_the_rest_stay():
    task = task_of(Plain)
    encoded = Encode(format=Int(bits=4)).apply(Model.of(task.model()), task, Context())
    model = Prune(keep=0.9, saliency=Magnitude(), where="two.weight").apply(encoded, task, Context())
    assert model.weights.keys() == {"one.weight"}
    assert {note.name for note in model.notes if note.kind == "thawed"} == {"two.weight", "fc.weight"}


def test_what_cannot_be_reached_is_refused():
    with pytest.raises(ConfigError, match=r"prune.keep: cannot be reached"):
        prune(Plain, keep=0.01)


@pytest.mark.parametrize("make", [Mlp, Plain, Joined])
@pytest.mark.parametrize("least", [1, 2])
def test_the_share_that_the_error_names_is_accepted(make, least):
    with pytest.raises(ConfigError) as raised:
        prune(make, keep=0.001, least=least)
    share = float(re.search(r"expected ([\d.e-]+) or more", str(raised.value))[1])
    assert kept(prune(make, keep=share, least=least))


def test_every_selected_weight_that_stays_is_noted():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.back = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.rnn, self.fc = nn.LSTM(16, 3, batch_first=True), nn.Linear(4, 3)

        def forward(self, x):
            h = torch.relu(self.stem(x))
            h = torch.relu(h + self.back(h)).mean((2, 3))
            return self.fc(h) + self.rnn(x.flatten(2))[0][:, -1]

    some = skipped(prune(Net, keep=0.5, where="back.weight"))
    assert "coupled to those of stem.weight" in some["back"]
    assert "none of its channels can go" in some["prune"]
    rest = skipped(prune(Net, keep=0.5, where=["rnn.*", "fc.weight"]))
    assert rest.keys() == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "fc", "prune"}


def test_prunes_a_pruned_network_again():
    task = task_of(Joined)
    step = Prune(keep=0.8, saliency=Magnitude(), of="parameters")
    once = step.apply(Model.of(task.model()), task, Context())
    structure = dict(once.structure)
    assert {path: spec.build().weight.shape for path, spec in structure.items()} == {
        path: once.module.get_submodule(path).weight.shape for path in structure
    }


def test_magnitude_and_geometric_median_by_hand():
    model, channels = Model.of(random(Plain)), coupled(Plain)
    filters = model.tensors["one.weight"].detach().flatten(1).double()
    for norm in (1, 2):
        found = Magnitude(norm=norm, relative=None).scores(model, channels, task_of(Plain), 0).linear[:3]
        np.testing.assert_allclose(found, filters.norm(norm, dim=1).numpy(), rtol=1e-6)
    slow = [sum(float((a - b).norm()) for b in filters) for a in filters]
    np.testing.assert_allclose(distances(filters.numpy()), slow, rtol=1e-9)
    np.testing.assert_allclose(distances(filters.numpy() + 5), slow, rtol=1e-9)
    found = Fpgm().scores(model, channels, task_of(Plain), 0).linear[:3]
    np.testing.assert_allclose(found, slow / np.mean(slow), rtol=1e-6)


def test_lamp_of_channels_is_its_equation_with_norms():
    model, channels = Model.of(random(Joined)), coupled(Joined)
    norms = channels.split(Magnitude(relative=None).scores(model, channels, task_of(Joined), 0).linear)
    found = channels.split(Magnitude(relative="lamp").scores(model, channels, task_of(Joined), 0).linear)
    for norm, score in zip(norms, found, strict=True):
        slow = [n**2 / sum(other**2 for other in norm if other >= n) for n in norm]
        np.testing.assert_allclose(score, slow, rtol=1e-9)
        assert score.max() == 1


def test_slimming_is_the_scale_of_batch_norm():
    model, channels = Model.of(random(Residual)), coupled(Residual)
    names = {group.name: scores for group, scores in zip(channels.groups, channels.split(
        Slimming().scores(model, channels, task_of(Residual), 0).linear), strict=True)}  # fmt: skip
    scale = {
        name: model.tensors[f"{name}.weight"].detach().abs().numpy()
        for name in ("norm", "mid_norm", "back_norm")
    }
    np.testing.assert_allclose(names["mid"], scale["mid_norm"], rtol=1e-6)
    np.testing.assert_allclose(names["stem"], (scale["norm"] + scale["back_norm"]) / 2, rtol=1e-6)
    negative = model.with_tensors({"mid_norm.weight": -model.tensors["mid_norm.weight"].detach()})
    found = Slimming().scores(negative, channels, task_of(Residual), 0).linear
    assert found.tolist() == np.concatenate(list(names.values())).tolist()


def test_slimming_needs_batch_norm():
    with pytest.raises(UnsupportedError, match=r"two: no batch norm .*\n?.*leave the layer out"):
        prune(Plain, keep=0.9, saliency=Slimming())
    assert kept(prune(Plain, keep=0.9, saliency=Slimming(), where="one.weight")).keys() == {"one"}


class Maps(nn.Module):
    """Two convolutions with batch norm; of the first, maps that are silent, constant, and anything."""

    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        return self.fc(torch.relu(self.two(x)).flatten(1))


def test_hrank_is_the_mean_rank_of_what_the_activation_makes():
    task = task_of(Maps)
    model = Model.of(task.model())
    weight, shift = model.tensors["one.weight"].detach().clone(), torch.tensor([-1e3, 2.0, 0.1, 0.0])
    weight[1] = 0
    model = model.with_tensors({"one.weight": weight, "norm.bias": shift})
    channels = couple(model.program(task.example()).graph)
    images = torch.cat([images for images, _ in task.batches("calibration", seed=0, epoch=0)])
    with torch.no_grad():
        maps = torch.relu(model.module.norm(model.module.one(images))).numpy()
    slow = [np.mean([np.linalg.matrix_rank(image[channel]) for image in maps]) / 4 for channel in range(4)]
    found = Hrank().scores(model, channels.only([0]), Restricted(task, "unlabelled"), 0).linear
    np.testing.assert_allclose(found, slow)
    assert found[:2].tolist() == [0, 0.25] and found[2] > 0.25
    after = Prune(keep=0.5, of="channels", where="one.weight", saliency=Hrank()).apply(model, task, Context())
    stay = np.sort(np.argsort(found)[2:]).tolist()
    assert torch.equal(after.tensors["one.weight"], model.tensors["one.weight"][stay])


def test_hrank_refuses_channels_that_are_no_images():
    with pytest.raises(UnsupportedError, match=r"a: .*no images"):
        prune(Mlp, keep=0.9, saliency=Hrank())


def test_a_file_of_a_pruned_factorised_quantised_network_fills_the_tasks_own():
    task = task_of(Plain)
    model = Model.of(task.model())
    for step in (
        Widen(where="one.weight"),
        Prune(keep=0.9, saliency=Magnitude(), where="one.weight"),
        Factorize(where="two.weight", form="channel", rank=Given(1)),
        Encode(format=Int(bits=8)),
    ):
        model = step.apply(model, Restricted(task, step.needs), Context())
    filled = loads(dumps(pack(model))).into(task.model())
    assert type(filled.two) is nn.Sequential
    torch.testing.assert_close(filled(task.example()), model.module(task.example()), rtol=0, atol=0)


def test_a_network_that_cannot_be_traced_is_left_alone_with_a_note():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(16, 6), nn.Linear(6, 3)

        def forward(self, x):
            x = self.a(x.flatten(1))
            return self.b(x if x.sum() > 0 else -x)

    assert "control flow" in skipped(prune(Branching, keep=0.9))["network"]
