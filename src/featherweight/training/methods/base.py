"""A method: a frozen value that replaces a weight by a trainable surrogate. Imports torch only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from featherweight.formats import Encoded, Format

if TYPE_CHECKING:
    from torch import Tensor

    from featherweight.training.surrogates.base import Surrogate


class Method(msgspec.Struct, frozen=True, tag_field="method", forbid_unknown_fields=True):
    """How a tensor trains towards its encoded form; its fields are its options.

    A subclass writes `surrogate`, and `misfit` if it cannot train every format.
    """

    def misfit(self, format: Format) -> str:
        """Return why this method cannot train tensors of such a format, or an empty string if it can."""
        return ""

    def surrogate(self, weight: Tensor, encoded: Encoded) -> Surrogate:
        """Return the surrogate that replaces a tensor while it trains.

        Args:
            weight: the tensor as training finds it, float32; it is not changed.
            encoded: the same in the format that training is to end in.
        """
        raise NotImplementedError
