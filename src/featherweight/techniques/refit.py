"""What is left of layers takes over what went: their weights by least squares on the layers' inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from featherweight.curvature.layerwise import layerwise, prefix
from featherweight.curvature.linear_ops import LinearOp, Pairs, second_moment
from featherweight.events import Events
from featherweight.formats.sweep import damped
from featherweight.formats.view import Array
from featherweight.graph.folding import foldable
from featherweight.model import Model
from featherweight.task import Task

PLACES = 256  # patches of an input that are seen, about
DAMPING = 1e-3  # share of the mean square of the inputs


def refitted(model: Model, silenced: Model, task: Task, samples: int, *, seed: int, events: Events) -> Model:
    """Return `silenced` with weights whose outputs come nearest to those of `model`, layer by layer in order.

    A layer reads what those before it now make of the inputs. Its weight becomes the ridge regression of its outputs
    in `model` on that, drawn toward what the weight is. Constant errors go into its bias, or into the running mean of
    the batch norm behind it. Rows and columns that are zero stay so.

    References: Frantar, Alistarh, Optimal brain compression, 2022, arXiv 2208.11580 (weights that stay take over);
    Meng, Ibrahim, Behdin, Hazimeh, Ponomareva, Mazumder, OSSCAR: one-shot structured pruning in vision and language
    models with combinatorial optimization, 2024, arXiv 2403.12983 (whole channels).

    Args:
        model: as it was.
        silenced: of the same structure; channels that are to go are zero.
        task: gives inputs of its calibration split.
        samples: how many to see.
        seed: of their order.
        events: where progress goes.
    """
    ahead = prefix(model, task, samples, seed=seed)
    graph = model.program(task.example()).graph
    made: dict[str, Tensor] = {}
    now = {
        name: t.detach() for name, t in silenced.tensors.items() if not torch.equal(t, model.tensors[name])
    }

    def treat(layer: LinearOp, pairs: Pairs) -> Mapping[str, Tensor]:
        weight, view = silenced.tensors[layer.weight].detach(), silenced.views[layer.weight]
        old, held = (view.matrix(t.detach().numpy()) for t in (model.tensors[layer.weight], weight))
        rows = np.any(held != 0, axis=1)
        new, shift = regression(layer, pairs, weight.shape[2:], old * rows[:, None], held)
        found = {layer.weight: torch.from_numpy(view.tensor(new.astype(np.float32)))}
        norm = foldable(graph, graph.node(layer.edge))
        constant, sign = (layer.bias, 1) if layer.bias else (norm and norm.roles.get("running_mean"), -1)
        if constant:
            moved = torch.from_numpy((sign * shift * rows).astype(np.float32))
            found[constant] = silenced.tensors[constant].detach() + moved
        made.update(found)
        return found

    trained = {name for name in ahead.linear_ops if name not in silenced.weights}
    layerwise(
        ahead,
        [name for name in ahead.linear_ops if name in trained],
        treat,
        changed=now,
        events=events,
        name="refit",
    )
    return silenced.with_tensors(made)


def regression(
    layer: LinearOp, pairs: Pairs, kernel: tuple[int, ...], old: Array, held: Array
) -> tuple[Array, Array]:
    """Return the weight `[rows, cols]` and what is to be added to each row's outputs `[rows]`.

    Args:
        layer: the layer.
        pairs: its inputs as they were, and as they are.
        kernel: the weight's shape without its first two axes.
        old: weight that the outputs to come near to are of, `[rows, cols]`.
        held: weight that the regression is drawn toward.
    """
    square = cross = sums = means = torch.zeros((), dtype=torch.double)
    count = 0
    for before, after in pairs:
        x, z = (layer.patches(inputs, kernel, PLACES) for inputs in (after, before))
        square = square + second_moment(layer, after, kernel, places=PLACES)
        cross = cross + second_moment(layer, before, kernel, after, places=PLACES)
        sums = sums + x.total()
        means = means + z.total()
        count += len(x.index)
    mean, past = sums.numpy() / count, means.numpy() / count  # [groups, cols]
    hessian = square.numpy() / count - mean[:, :, None] * mean[:, None, :]
    product = cross.numpy() / count - past[:, :, None] * mean[:, None, :]
    groups, cols = mean.shape
    theirs, ours = (part.reshape(groups, -1, cols).astype(np.float64) for part in (old, held))
    ridge = damped(hessian, DAMPING)
    weight = ridge - hessian  # what the damping adds
    target = theirs @ product + ours @ weight
    new = np.linalg.solve(ridge, target.transpose(0, 2, 1)).transpose(0, 2, 1)
    shift = (theirs @ past[:, :, None] - new @ mean[:, :, None])[:, :, 0]
    return new.reshape(old.shape), shift.reshape(-1)
