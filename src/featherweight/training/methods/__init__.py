"""Methods: how a tensor trains towards its encoded form. `AnyMethod`: the union of built-ins and plug-ins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

from featherweight.checked import with_plugins
from featherweight.training.methods.adaround import Adaround
from featherweight.training.methods.astc_blocks import AstcBlocks
from featherweight.training.methods.base import Method
from featherweight.training.methods.centroids import Centroids
from featherweight.training.methods.dorefa import Dorefa
from featherweight.training.methods.dsq import Dsq
from featherweight.training.methods.latent import Project, StraightThrough
from featherweight.training.methods.lq_nets import LqNets
from featherweight.training.methods.lsq import Lsq
from featherweight.training.methods.pact import Pact

METHODS: tuple[type[Method], ...] = with_plugins(
    "featherweight.methods",
    (StraightThrough, Centroids, Project, AstcBlocks, Lsq, Dorefa, LqNets, Dsq, Pact, Adaround),
)

if TYPE_CHECKING:
    AnyMethod = Method
else:
    AnyMethod: Any = Union[METHODS]  # noqa: UP007

__all__ = [
    "METHODS",
    "Adaround",
    "AnyMethod",
    "AstcBlocks",
    "Centroids",
    "Dorefa",
    "Dsq",
    "LqNets",
    "Lsq",
    "Method",
    "Pact",
    "Project",
    "StraightThrough",
]
