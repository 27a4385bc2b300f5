"""ONNX in: the network in a file as a module of stock layers."""

from featherweight.capture.onnx.check import check_against_runtime
from featherweight.capture.onnx.network import OnnxNetwork, Value
from featherweight.capture.onnx.reader import read_network

__all__ = ["OnnxNetwork", "Value", "check_against_runtime", "read_network"]
