"""Inputs of layers against hooks on a network that was changed by hand, whatever is kept on the way."""

import weakref
from functools import cache

import pytest
import torch
from tiny import Tiny

from featherweight.curvature.layerwise import layerwise, prefix
from featherweight.model import Model
from featherweight.task import Restricted

TASK = Tiny(size=40, batch=12)
WEIGHTS = ["0.weight", "4.weight", "8.weight"]


@cache
def ahead(samples=30):
    return prefix(Model.of(TASK.model()), Restricted(TASK, "unlabelled"), samples)


def seen_by_hooks(module, samples=30):
    """Inputs of each of the layers, all samples at once."""
    found = {}
    for weight in WEIGHTS:
        path = weight.split(".")[0]
        module.get_submodule(path).register_forward_pre_hook(
            lambda _, args, weight=weight: found.__setitem__(weight, args[0].detach())
        )
    images = torch.cat([images for images, _ in TASK.batches("calibration", seed=0, epoch=0)])
    with torch.no_grad():
        module(images[:samples])
    return found


@pytest.mark.parametrize("limit", [0, 30_000, 1 << 30])
@pytest.mark.parametrize("sequential", [True, False])
def test_inputs_are_those_of_the_changed_network(limit, sequential):
    module = TASK.model()
    floats, changed = seen_by_hooks(TASK.model()), TASK.model()
    seen, made = {}, {}

    def treat(layer, pairs):
        before, now = zip(*pairs, strict=True)
        again = torch.cat([second for _, second in pairs])
        seen[layer.weight] = torch.cat(before), torch.cat(now)
        assert torch.equal(again, seen[layer.weight][1])
        made[layer.weight] = 1.1 * module.state_dict()[layer.weight]
        return {layer.weight: made[layer.weight]}

    layerwise(ahead(), WEIGHTS, treat, sequential=sequential, limit=limit)
    assert list(made) == WEIGHTS == list(seen)
    if sequential:
        changed.load_state_dict({**module.state_dict(), **made})
    expected = seen_by_hooks(changed)
    for weight in WEIGHTS:
        torch.testing.assert_close(seen[weight][0], floats[weight])
        torch.testing.assert_close(seen[weight][1], expected[weight])


def test_what_nothing_will_read_again_is_let_go():
    module, alive, made = TASK.model(), [], []

    def treat(layer, pairs):
        assert len(list(pairs)) > 0
        alive.append(sum(ref() is not None for ref in made))
        new = module.state_dict()[layer.weight].clone()
        made.append(weakref.ref(new))
        return {layer.weight: new}

    layerwise(
        ahead(), WEIGHTS, treat, limit=1 << 30
    )  # everything between layers is kept: nothing is read twice
    assert alive == [0, 0, 0]
    alive.clear(), made.clear()
    layerwise(ahead(), WEIGHTS, treat, limit=0)  # nothing is kept between the second layer and the third
    assert alive == [0, 0, 1]


def test_as_many_samples_as_asked_for_or_as_there_are():
    assert ahead(30).samples == 30
    assert ahead(1).samples == 1
    assert ahead(1000).samples == 40
