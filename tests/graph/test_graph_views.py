"""Each layer's own view: which axis is kept, and which rows share no statistics."""

import numpy as np
import pytest
from networks import NETWORKS
from torch import nn

from featherweight.capture import canonical_names, views
from featherweight.formats import View

CASES = [
    (nn.Linear(3, 5), "weight", (5, 3, 1)),
    (nn.Conv2d(4, 6, 3, groups=2), "weight", (6, 18, 1)),
    (nn.ConvTranspose2d(4, 6, 3), "weight", (6, 36, 1)),
    (nn.ConvTranspose1d(4, 6, 3, groups=2), "weight", (4, 9, 1)),
    (nn.LSTM(3, 5), "weight_ih_l0", (20, 3, 4)),
    (nn.LSTM(3, 5), "weight_hh_l0", (20, 5, 4)),
    (nn.LSTM(3, 5), "bias_ih_l0", (1, 20, 1)),
    (nn.LSTM(3, 5, proj_size=2), "weight_hr_l0", (2, 5, 1)),
    (nn.GRU(3, 5, bidirectional=True), "weight_hh_l0_reverse", (15, 5, 3)),
    (nn.RNN(3, 5), "weight_ih_l0", (5, 3, 1)),
    (nn.LSTMCell(3, 5), "weight_ih", (20, 3, 4)),
    (nn.GRUCell(3, 5), "weight_hh", (15, 5, 3)),
    (nn.MultiheadAttention(8, 2), "in_proj_weight", (24, 8, 3)),
    (nn.MultiheadAttention(8, 2, kdim=4), "k_proj_weight", (8, 4, 1)),
    (nn.Embedding(7, 3), "weight", (7, 3, 1)),
    (nn.Bilinear(2, 3, 4), "weight", (4, 6, 1)),
    (nn.BatchNorm2d(4), "num_batches_tracked", (1, 1, 1)),
]


@pytest.mark.parametrize(("module", "name", "expected"), CASES, ids=lambda value: str(value)[:40])
def test_view(module, name, expected):
    view = views(module)[name]
    assert (view.rows, view.cols, view.groups) == expected


def test_rows_of_a_transposed_convolution_are_its_output_channels():
    module = nn.ConvTranspose2d(3, 4, 2)
    weight = module.weight.detach().numpy()
    np.testing.assert_array_equal(views(module)["weight"].matrix(weight)[2], weight[:, 2].reshape(-1))


def test_every_stored_tensor_has_one_view_and_default_for_parametrized_ones():
    for network in NETWORKS.values():
        module, _ = network.build()
        state = module.state_dict()
        found = views(module)
        assert set(found) == set(canonical_names(module).values())
        assert all(found[name].shape == tuple(state[name].shape) for name in found)
    module, _ = NETWORKS["parametrized"].build()
    assert views(module)["a.parametrizations.weight.original1"] == View.of((6, 3, 3))


def test_tied_weights_have_one_name():
    module, _ = NETWORKS["tied"].build()
    assert canonical_names(module) == {"words.weight": "words.weight", "out.weight": "words.weight"}
