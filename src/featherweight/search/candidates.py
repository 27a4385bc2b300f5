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
        """What tables call it: `int 4 channel mse`, and the coder where it is not the smallest."""
        if self.format is None:
            return "float as it is"
        return (
            label(self.format) if self.coder == "smallest" else f"{label(self.format)}, {label(self.coder)}"
        )


def label(kind: AnyFormat | AnyCoder) -> str:
    """Return a format or coder as its name and options: what differs from the defaults, and those of `SHOWN`."""
    fields = {name: getattr(kind, name) for name in kind.__struct_fields__}
    defaults = dict(zip(reversed(kind.__struct_fields__), reversed(kind.__struct_defaults__), strict=False))
    shown = [str(value) for name, value in fields.items() if name in SHOWN or value != defaults.get(name)]
    return " ".join([tag(kind), *shown])
