"""ASTC: weights as the texture blocks that GPUs decode while they fetch them."""

from featherweight.formats.astc.format import Astc

__all__ = ["Astc"]
