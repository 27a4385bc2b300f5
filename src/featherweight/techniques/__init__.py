"""Steps: what recipes are lists of. `AnyStep` is the union of built-ins and plug-ins. No torch yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.checked import with_plugins
from featherweight.techniques.base import Context, Step
from featherweight.techniques.calibrate import Calibrate
from featherweight.techniques.corrections import CorrectBias, ReestimateBatchnorm
from featherweight.techniques.encode import Encode
from featherweight.techniques.factorize import Factorize
from featherweight.techniques.fold import Equalize, Fold
from featherweight.techniques.gptq import Gptq
from featherweight.techniques.prune import Prune
from featherweight.techniques.rearrange import Reorder, Widen
from featherweight.techniques.smooth import Smooth
from featherweight.techniques.sparsify import Sparsify
from featherweight.techniques.stages import Stages
from featherweight.techniques.training import Finetune, Load, Train

STEPS: tuple[type[Step], ...] = with_plugins("featherweight.steps", (
    Train, Load, Sparsify, Prune, Factorize, Widen, Reorder, Encode, Gptq, Fold, Equalize, Smooth,
    CorrectBias, ReestimateBatchnorm, Calibrate, Finetune, Stages,
))  # fmt: skip

if TYPE_CHECKING:
    AnyStep = Step
else:
    AnyStep: Any = Union[STEPS]  # noqa: UP007

__all__ = [
    "STEPS", "AnyStep", "Calibrate", "Context", "CorrectBias", "Encode", "Equalize", "Factorize", "Finetune", "Fold",
    "Gptq", "Load", "Prune", "ReestimateBatchnorm", "Reorder", "Smooth", "Sparsify", "Stages", "Step", "Train", "Widen",
]  # fmt: skip
