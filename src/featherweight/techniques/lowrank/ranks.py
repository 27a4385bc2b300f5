"""How the rank of a matrix is chosen: by its noise, by its energy, or as given."""

from __future__ import annotations

from typing import Annotated, Any, Union

import msgspec
import numpy as np
from numpy.typing import NDArray

from featherweight.checked import check_fields
from featherweight.techniques.lowrank.evbmf import evbmf_rank

Array = NDArray[Any]


class Rank(msgspec.Struct, frozen=True, tag_field="by", forbid_unknown_fields=True):
    """A rule from a matrix to a rank."""

    def __post_init__(self) -> None:
        """Check every field against its annotation.

        Raises:
            ConfigError: names the field.
        """
        check_fields(self, str(self.__struct_config__.tag))

    def of(self, matrix: Array) -> int:
        """Return the rank for a matrix, at least 1 and at most its shorter side."""
        singular = np.linalg.svd(matrix, compute_uv=False)
        return min(max(self.counted(singular, *matrix.shape), 1), len(singular))

    def counted(self, singular: Array, rows: int, columns: int) -> int:
        """Return how many of the singular values stay."""
        raise NotImplementedError


class Evbmf(Rank, frozen=True, tag="evbmf"):
    """As many components as outlive the noise, by empirical variational Bayes.

    References: Nakajima, Sugiyama, Babacan, Tomioka, 2013, JMLR 14; for networks Kim et al., Compression of deep
    convolutional neural networks for fast and low power mobile applications, 2016, arXiv 1511.06530, section 3.2.
    """

    def counted(self, singular: Array, rows: int, columns: int) -> int:
        """Return the rank of the signal."""
        return evbmf_rank(singular, rows, columns)


class Energy(Rank, frozen=True, tag="energy"):
    """The fewest components that hold a share of the squared singular values.

    Attributes:
        share: of the energy.
    """

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95

    def counted(self, singular: Array, rows: int, columns: int) -> int:
        """Return the number of components."""
        energy = np.cumsum(np.square(singular, dtype=np.float64))
        return int(np.searchsorted(energy, self.share * energy[-1] * (1 - 1e-12))) + 1


class Given(Rank, frozen=True, tag="given"):
    """A number of components, or all of a matrix that has fewer.

    Attributes:
        rank: how many.
    """

    rank: Annotated[int, msgspec.Meta(ge=1)]

    def of(self, matrix: Array) -> int:
        """Return the rank; no singular value is needed."""
        return int(min(self.rank, *matrix.shape))


RANKS: tuple[type[Rank], ...] = (Evbmf, Energy, Given)
AnyRank = Union[Evbmf, Energy, Given]  # noqa: UP007
