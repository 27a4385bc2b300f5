"""Saliencies: how much a channel matters, or a weight. No torch yet.

`AnySaliency` is the union of those of channels, built-ins and plug-ins. `sparsify` takes `Obd`, `WoodFisher` and
`SparseGpt`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.checked import with_plugins
from featherweight.techniques.saliencies.base import Saliency, Scores
from featherweight.techniques.saliencies.derivatives import Fisher, Obd, SospH, SospI, Taylor
from featherweight.techniques.saliencies.surgeon import SparseGpt, WoodFisher
from featherweight.techniques.saliencies.values import Fpgm, Hrank, Magnitude, Slimming

SALIENCIES: tuple[type[Saliency], ...] = with_plugins(
    "featherweight.saliencies", (Magnitude, Fpgm, Slimming, Hrank, Taylor, Fisher, Obd, SospI, SospH)
)

if TYPE_CHECKING:
    AnySaliency = Saliency
else:
    AnySaliency: Any = Union[SALIENCIES]  # noqa: UP007

__all__ = [
    "SALIENCIES", "AnySaliency", "Fisher", "Fpgm", "Hrank", "Magnitude", "Obd", "Saliency", "Scores", "Slimming",
    "SospH", "SospI", "SparseGpt", "Taylor", "WoodFisher",
]  # fmt: skip
