"""From a model to its file and report: graph, artifact, checks, measurements, summary."""

from featherweight.delivery.delivery import Compressed, deliver
from featherweight.delivery.summary import Summary

__all__ = ["Compressed", "Summary", "deliver"]
