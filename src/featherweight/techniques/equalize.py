"""The step `equalize`: channels between two layers scaled so that both weights have the same range, without data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from featherweight.events import Note
from featherweight.task import Needs, Task
from featherweight.techniques.base import Context, Step

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.graph.folding import ScalePair
    from featherweight.model import Model

ROUNDS = 30
CONVERGED = 1e-3


class Equalize(Step, frozen=True, tag="equalize"):
    """Scale each channel between two layers so that it has the same range in the weights of both.

    Where one layer alone reads another through operators with `f(s x) = s f(x)` (ReLU, leaky ReLU, pooling, zero
    padding, flattening), row i of the first weight and its bias are divided by `s_i = sqrt(r_i / q_i)`, and what
    meets channel i in the second is multiplied by it; r and q are the greatest magnitudes there. Chains of layers
    are repeated until nothing moves. The network computes the same, which is checked on the task's example; formats
    with few scales lose less. ReLU6 clips at 6 whatever the scale: pairs through it stay, with a note, as do those
    through a batch norm (`fold` it before). Encoded tensors that are scaled are thawed.

    References: Nagel, van Baalen, Blankevoort, Welling, Data-free quantization through weight equalization and
    bias correction, 2019, arXiv 1906.04721, eq. 11.
    """

    needs: ClassVar[Needs] = "none"

    def apply(self, model: Model, task: Task, context: Context) -> Model:
        """Return the model with equal ranges."""
        from featherweight.graph.folding import scale_pairs
        from featherweight.selectors import weights
        from featherweight.techniques.surgery import difference, failing

        pairs, without = scale_pairs(model.program(task.example()).graph)
        failed = failing(
            pairs, lambda some: difference(lambda: scaled(model, some), model, task.example()), task.name
        )
        taken = without.keys() | {name for pair in pairs for name in (pair.first, pair.second)}
        other = "is no weight of a linear layer or a convolution (transposed ones are not equalized)"
        skipped = without | {name: other for name in weights(model) if name not in taken}
        skipped |= {pair.first: f"not equalized with {pair.second}: {why}" for pair, why in failed.items()}
        notes = [Note("skipped", name, why) for name, why in skipped.items()]
        return scaled(model, [pair for pair in pairs if pair not in failed], notes)


def scaled(model: Model, pairs: Sequence[ScalePair], notes: Iterable[Note] = ()) -> Model:
    """Return the model with equal ranges in these pairs of layers."""
    names = dict.fromkeys(name for p in pairs for name in (p.first, p.bias, p.second) if name)
    values = {name: model.tensors[name].detach().double() for name in names}
    for _ in range(ROUNDS):
        if max([equalized(values, pair) for pair in pairs], default=0.0) < CONVERGED:
            break
    return model.with_tensors(
        {name: value.to(model.tensors[name].dtype) for name, value in values.items()}, notes
    )


def equalized(values: dict[str, Tensor], pair: ScalePair) -> float:
    """Scale the channels of a pair in `values`; return the greatest logarithm of a scale.

    A channel without a range on one side stays.
    """
    first, second = values[pair.first], values[pair.second]
    channels = len(first)
    # [groups, out of a group, channels of a group, what meets one channel: taps, or places that were flattened]
    blocks = second.reshape(pair.groups, len(second) // pair.groups, channels // pair.groups, -1)
    scale = (first.flatten(1).abs().amax(1) / blocks.abs().amax((1, 3)).flatten()).sqrt()
    scale[~scale.isfinite() | (scale == 0)] = 1.0
    values[pair.first] = first / scale.reshape(-1, *[1] * (first.dim() - 1))
    if pair.bias:
        values[pair.bias] = values[pair.bias] / scale
    values[pair.second] = (blocks * scale.reshape(pair.groups, 1, -1, 1)).reshape(second.shape)
    return float(scale.log().abs().max())
