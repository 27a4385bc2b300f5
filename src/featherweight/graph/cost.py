"""What a network costs when its weights change size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

Sizes = Mapping[tuple[str, int], int]


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates and parameters as functions of the sizes of weights.

    A layer multiplies its whole weight once at every place it visits, so that its multiply-accumulates are
    places times size: of a convolution, grouped or not, the output's pixels; of a linear layer, its rows.

    Attributes:
        shapes: of each parameter and buffer, by canonical name.
        trained: the parameters among them.
        uses: weight and number of places, for each use of a weight by a layer.
        rest: multiply-accumulates of everything else (attention, products of activations).
    """

    shapes: Mapping[str, tuple[int, ...]]
    trained: tuple[str, ...]
    uses: tuple[tuple[str, int], ...]
    rest: int = 0

    def numel(self, name: str, sizes: Sizes) -> int:
        """Return the number of elements of a tensor, some of whose axes have new sizes."""
        return prod(sizes.get((name, axis), size) for axis, size in enumerate(self.shapes[name]))

    def macs(self, sizes: Sizes) -> int:
        """Return the multiply-accumulates on the example, where some axes have new sizes.

        >>> cost = Cost({"w": (4, 3)}, ("w",), (("w", 10),))
        >>> cost.macs({}), cost.macs({("w", 0): 2})
        (120, 60)
        """
        return self.rest + sum(places * self.numel(name, sizes) for name, places in self.uses)

    def parameters(self, sizes: Sizes) -> int:
        """Return the number of parameters, where some axes have new sizes."""
        return sum(self.numel(name, sizes) for name in self.trained)
