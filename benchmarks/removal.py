"""What saliencies predict, and what removing a channel does: ResNet-20, one channel at a time.

    python -m benchmarks removal [--quick]

Ten channels of each group are silenced, each alone, and the loss on training images is measured. Printed is Spearman's
rank correlation of its change with each prediction, over all layers and, on average, within one. Takes three minutes.
"""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.common import head, row, tiny
from featherweight.curvature.gauss_newton import pair_matrix
from featherweight.curvature.hvp import hessian_product
from featherweight.graph.channels import Channels
from featherweight.model import Model
from featherweight.task.sampling import drawn
from featherweight.techniques.saliencies import Fisher, Fpgm, Hrank, Magnitude, Slimming, Taylor
from featherweight.techniques.saliencies.base import only_makers, per_channel
from featherweight.techniques.surgery import eligible, silenced
from featherweight.training.gradients import isolated
from featherweight.zoo.tasks import resolve


def predictions(model: Model, channels: Channels, task, samples: int) -> dict[str, np.ndarray]:
    """Return what removing each channel is thought to cost `[channels]`, by name."""
    batches = list(drawn(task, "train", samples=samples))
    once = channels.scaled_once()
    found = {
        "L2": Magnitude().scores(model, channels, task, 0).linear,
        "LAMP of L2": Magnitude(relative="lamp").scores(model, channels, task, 0).linear,
        "FPGM": Fpgm().scores(model, channels, task, 0).linear,
        "network slimming": Slimming().scores(model, channels, task, 0).linear,
        "HRank": Hrank().scores(model, channels, task, 0).linear,
        "Fisher": Fisher(samples=samples).scores(model, channels, task, 0).linear,
        "Taylor": Taylor(samples=samples).scores(model, channels, task, 0).linear,
    }
    for name, those in (("SOSP-H, weight and batch norm both count", channels), ("SOSP-H", once)):
        theta = only_makers(those, dict(model.module.named_parameters()))
        gradient, product = hessian_product(model, task, batches, theta)
        first = per_channel(those, {k: v * gradient[k] for k, v in theta.items()})
        second = per_channel(those, {k: v * product[k] for k, v in theta.items()})
        found[name] = np.abs(first) + np.abs(second) / 2
    pair = pair_matrix(model, task, batches, once)
    own = np.diagonal(pair) / 2
    found["SOSP-H, Gauss-Newton for the Hessian"] = np.abs(first) + np.abs(pair.sum(1)) / 2
    found["`abs(theta_s g) + 1/2 theta_s G theta_s`: SOSP-I of one channel"] = np.abs(first) + own
    found["`-theta_s g + 1/2 theta_s G theta_s`: the second order of the loss"] = own - first
    return found


def removed(model: Model, channels: Channels, task, samples: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Return channels, some of each group, and by how much the loss changes without each."""
    batches = list(islice(task.batches("train", seed=0, epoch=0), -(-samples // task.batch_size)))

    def loss(network: Model) -> float:
        with torch.inference_mode():
            return float(np.mean([float(task.loss(network.module.eval()(x), (x, y))) for x, y in batches]))

    rng, before, picked, changes = np.random.default_rng(0), loss(model), [], []
    for number, group in enumerate(channels.groups):
        own = np.flatnonzero(channels.group_of == number)
        picked += own[rng.permutation(group.size)[:each]].tolist()
    for channel in picked:
        kept = np.arange(channels.count) != channel
        changes.append(loss(silenced(model, channels, kept)) - before)
    return np.array(picked), np.array(changes)


def main(quick: bool) -> None:
    task = tiny() if quick else resolve("resnet20-cifar10")
    model = Model.of(task.model())
    channels, _ = eligible(model, task, "weights")
    with isolated():
        found = predictions(model, channels, task, 48 if quick else 512)
    picked, changes = removed(model, channels, task, 48 if quick else 256, 3 if quick else 10)
    head("predicted", "all layers", "within a layer, mean")
    for name, scores in found.items():
        values, groups = scores[picked], channels.group_of[picked]
        within = [spearmanr(values[groups == g], changes[groups == g])[0] for g in np.unique(groups)]
        row(name, f"{spearmanr(values, changes)[0]:.2f}", f"{np.nanmean(within):.2f}")
