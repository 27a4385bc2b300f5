"""What is strange about calibration data: too few, all alike, another layout, far from the training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from featherweight.structure import to_call
from featherweight.task import Inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from featherweight.model import Model, Note

FEW = 32  # samples; ranges of fewer are often too narrow
LOOKED_AT = 8  # samples that are run to compare statistics of batch norm
FAR = 0.75  # standard deviations, or factors of two of a variance; see `distance`


def diagnosed(
    model: Model, baseline: Model | None, inputs: Sequence[Inputs], seen: int, asked: int
) -> list[Note]:
    """Return a note, with what to do, on everything strange about calibration data.

    Args:
        model: the network.
        baseline: the network before batch norms were folded, if there is one.
        inputs: the data, a few samples at a time.
        seen: how many samples they are.
        asked: how many were asked for.
    """
    from featherweight.model import Note
    from featherweight.task.samples import leaves
    from featherweight.techniques.reestimate_batchnorm import batch_norms

    found = []
    if seen < min(asked, FEW):
        found.append(f"only {seen} samples: ranges may be too narrow; give {FEW} or more")
    first = [leaf for leaf in leaves(inputs[0]) if leaf.is_floating_point()]
    if first and seen > 1 and constant(inputs):
        found.append("all samples are equal: ranges are those of one; give different ones")
    if any(interleaved(leaf) for leaf in first):
        found.append("looks like channels last read as channels first; permute(0, 3, 1, 2), not reshape")
    normalised = next((m for m in (model, baseline) if m is not None and batch_norms(m.module)), None)
    if normalised is not None and (far := distance(normalised.module, inputs)) > FAR:
        reason = "far from the training data by the statistics of batch norm"
        found.append(
            f"{reason} ({far:.1f}, expected under {FAR:g}): is it normalised and ordered as that was?"
        )
    return [Note("chose", "calibration data", reason) for reason in found]


def constant(inputs: Sequence[Inputs]) -> bool:
    """Return whether every sample equals the first."""
    import torch

    from featherweight.task.samples import leaves

    columns = zip(*(list(leaves(item)) for item in inputs), strict=True)
    return all(all(torch.equal(leaf, column[0][:1].expand_as(leaf)) for leaf in column) for column in columns)


def interleaved(images: Tensor) -> bool:
    """Return whether the pixels of `images: [n, c, h, w]`, c 3 or 4, look like `[n, h, w, c]` in their memory.

    Then a number is more like the c-th after it than like the next.
    """
    if images.dim() != 4 or images.shape[1] not in (3, 4) or images.shape[3] < 16:
        return False
    step = images.shape[1]
    near = (images[..., 1:] - images[..., :-1]).abs().mean()
    next_pixel = (images[..., step:] - images[..., :-step]).abs().mean()
    return bool(next_pixel < 0.8 * near)


def distance(module: nn.Module, inputs: Sequence[Inputs]) -> float:
    """Return how far the data are from the running statistics of batch norm, 0 if they agree.

    For each layer the greater of two means over its channels: how many standard deviations the mean is off,
    and how many factors of two the variance is. The median over the layers counts.
    """
    import torch

    from featherweight.capture.program import eval_mode
    from featherweight.task import call
    from featherweight.task.samples import mapped
    from featherweight.techniques.reestimate_batchnorm import batch_norms

    found: dict[str, float] = {}

    def hook(path: str) -> Any:
        def look(layer: Any, arguments: tuple[Tensor, ...]) -> None:
            values = arguments[0].transpose(0, 1).flatten(1)
            mean, var = layer.running_mean, layer.running_var + layer.eps
            shift = ((values.mean(1) - mean).abs() / var.sqrt()).mean()
            spread = ((values.var(1, correction=0) + layer.eps) / var).log2().abs().mean()
            found[path] = float(torch.maximum(shift, spread))

        return look

    copy = to_call(module)
    for path, layer in batch_norms(copy).items():
        layer.register_forward_pre_hook(hook(path))
    with eval_mode(copy):
        call(copy, mapped(lambda leaf: leaf[:LOOKED_AT], inputs[0]))
    return sorted(found.values())[len(found) // 2] if found else 0.0
