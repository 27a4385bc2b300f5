"""What a tensor may become: a format and a coder, or float as it is."""

from __future__ import annotations

from typing import Literal

import msgspec

from featherweight.formats import AnyCoder, AnyFormat, tag

SHOWN = ("bits", "per", "kind")


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One way to write a tensor.

    Attributes:
        format: the format; None leaves the tensor float.
        coder: the coder, or `smallest`: whichever gives the fewest bytes.
    """

    format: AnyFormat | None = None
    coder: AnyCoder | Literal["smallest"] = "smallest"

    @property
    def label(self) -> str:
        """What tables call it: `int 4 channel mse`."""
        return label(self.format) if self.format else "float as it is"


def label(format_: AnyFormat) -> str:
    """Return a format's name and options on one line: what differs from its defaults, and those of `SHOWN`."""
    fields = {name: getattr(format_, name) for name in format_.__struct_fields__}
    defaults = dict(
        zip(reversed(format_.__struct_fields__), reversed(format_.__struct_defaults__), strict=False)
    )
    shown = [str(value) for name, value in fields.items() if name in SHOWN or value != defaults.get(name)]
    return " ".join([tag(format_), *shown])
