"""What surrogates with a float weight share: the weight, and the parts (scale, codebook) it was last encoded with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featherweight.formats import Encoded
from featherweight.training.surrogates.base import Surrogate

Array = NDArray[Any]


class Latent(Surrogate):
    """A float weight as the parameter; the parts are buffers, so that they are in every checkpoint."""

    def __init__(self, weight: Tensor, encoded: Encoded) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())
        self.format, self.view = encoded.format, encoded.view
        self.names = list(encoded.parts)
        self.hold(encoded.parts)
        self.register_load_state_dict_pre_hook(_hold_loaded)

    @property
    def parts(self) -> dict[str, Array]:
        """The parts that are held."""
        return {name: getattr(self, f"part_{name}").numpy() for name in self.names}

    def hold(self, parts: Mapping[str, Array]) -> None:
        """Keep these parts for the steps to come."""
        for name, part in parts.items():
            self.register_buffer(f"part_{name}", torch.from_numpy(np.array(part)))

    def freeze(self) -> Encoded:
        """Return the weight encoded with newly fitted parts, or with those held if they bring it closer; hold these.

        Fitted to a weight that is decoded already, parts need not be those it decodes from: the range of `Int` by
        min-max shrinks each time.
        """
        weight = self.weight.detach().numpy()
        fitted = self.format.encode(weight, view=self.view)
        held = self.format.encode(weight, view=self.view, parts=self.parts)
        encoded = min(held, fitted, key=lambda entry: float(np.square(entry.decode() - weight, dtype=np.float64).sum()))
        self.hold(encoded.parts)
        return encoded


def _hold_loaded(latent: Latent, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for the parts that are about to be loaded: a codebook may have another length."""
    latent.hold({name: state[f"{prefix}part_{name}"].numpy() for name in latent.names})
