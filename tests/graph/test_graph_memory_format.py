"""Networks run channels last give what they give in the layout that they were captured in."""

import pytest
import torch
from torch import nn

from featherweight.capture.execution import Execution
from featherweight.capture.memory_format import channels_last, takes_channels_last, trains_channels_last
from featherweight.capture.program import capture


class Views(nn.Module):
    """Flattens by `view`, which refuses channels that lie last."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5)

    def forward(self, x):
        x = self.conv(x)
        x = x.view(len(x), 2, 2, 6, 6).transpose(1, 2).contiguous().view(len(x), 4, 6, 6)
        return self.fc(x.view(len(x), -1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Views().eval()


@pytest.fixture
def images():
    return torch.rand(2, 3, 8, 8)


def test_captured_network_that_views(network, images):
    program = capture(network, images)
    (name,) = program.example
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(Execution(program)({name: images})[0], expected)


def test_activations_of_convolutions_stay_channels_last(network, images):
    program = capture(network, images)
    seen = {}
    run = Execution(program, lambda edge, value: seen.setdefault(edge, value))
    run(dict.fromkeys(program.example, images))
    made = next(value for value in seen.values() if value.shape == (2, 4, 6, 6))
    assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tensor", [torch.rand(2, 3), torch.zeros(2, 3, 4, 4, dtype=torch.int64)])
def test_what_is_no_image_stays_as_it_is(tensor):
    assert channels_last(tensor) is tensor


def test_a_network_that_views_refuses_it_and_others_take_it(images):
    class Flat(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x).view(len(x), -1))

    assert not takes_channels_last(Flat(nn.Conv2d(3, 4, 3), nn.Linear(144, 2)).eval(), images)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    assert takes_channels_last(plain, images)
    assert not takes_channels_last(nn.Linear(8, 2), images)


class Branching(nn.Module):
    """Has a branch that only training takes."""

    def __init__(self, branch):
        super().__init__()
        self.conv, self.norm, self.branch = nn.Conv2d(3, 4, 3), nn.BatchNorm1d(4), branch

    def forward(self, x):
        x = self.conv(x)
        if self.training:
            self.branch(x)
        return self.norm(x.mean((2, 3)))


def test_a_branch_that_only_training_takes_counts(images):
    flat, views = Branching(lambda x: x.flatten(1)).eval(), Branching(lambda x: x.view(len(x), -1)).eval()
    assert trains_channels_last(flat, images) and takes_channels_last(views, images)
    assert not trains_channels_last(views, images)
    assert trains_channels_last(flat, images[:1])  # batch norm cannot train on one sample: another batch may
    assert not flat.training and flat.norm.num_batches_tracked == 0


def test_one_that_looks_at_its_memory_is_found_out(images):
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x.as_strided(x.shape, (192, 64, 8, 1)))

    assert not takes_channels_last(Looks().eval(), images)


def test_outputs_of_any_kind_are_compared_and_the_example_is_not_written_to(images):
    class Decides(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x.mul_(2)).mean((2, 3)) > 0

    before = images.clone()
    assert takes_channels_last(Decides().eval(), images)
    assert torch.equal(images, before)
