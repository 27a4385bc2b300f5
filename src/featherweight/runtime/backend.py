"""What runs a file: ONNX Runtime, OpenVINO, and the backends that installed packages add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from featherweight.activations import Quantizer
from featherweight.artifact import StoredGraph
from featherweight.checked import with_plugins
from featherweight.engines import onnxruntime_session, openvino_model
from featherweight.errors import ConfigError, MissingExtraError, UnsupportedError
from featherweight.export import build_onnx, build_qdq, opened_onnx
from featherweight.export.float_graph import MOST_ONNX, fed_onnx
from featherweight.export.qdq import ROUNDS
from featherweight.formats import Encoded
from featherweight.runtime.saturation import OPERATORS, PORTABLE, probe, saturable, with_own_weights

Array = NDArray[Any]
# Flat inputs by name to flat outputs.
Compute = Callable[[dict[str, Array]], list[Array]]


class Backend(Protocol):
    """Runs the graphs of files. Plug-ins are found under `featherweight.backends`; see docs/guides/extend.md.

    Attributes:
        name: by which sessions and the command line name it.
        title: its name in sentences.
    """

    name: ClassVar[str]
    title: ClassVar[str]

    def missing(self) -> str:
        """Return why it cannot run on this machine, or an empty string."""

    def open(
        self, graph: StoredGraph, tensors: Mapping[str, Array], weights: Mapping[str, Encoded],
        activations: Mapping[str, Quantizer], *, threads: int,
    ) -> Compute:  # fmt: skip
        """Return what computes the flat outputs of a graph.

        Args:
            graph: the float graph of a network.
            tensors: its decoded tensors, by canonical name.
            weights: those that are encoded.
            activations: quantizers by value of the graph; without any, the network is computed in float.
            threads: of one operator.

        Raises:
            UnsupportedError: it cannot run the graph as the simulation computes it; says why.
        """


class OnnxBackend(Backend):
    """A runtime of ONNX graphs: integers are QuantizeLinear and DequantizeLinear.

    Attributes:
        rounds: whether it rounds activations to other numbers than integers of 8 bits; otherwise it would skip that.
        widens: whether it can add 8-bit products in int32 where its int16 sums would saturate.
        operators: its own operators on integers, with the place of their weight.
    """

    rounds: ClassVar[bool] = False
    widens: ClassVar[bool] = False
    operators: ClassVar[Mapping[str, int]] = {}

    def missing(self) -> str:
        """Return why it cannot run on this machine, or an empty string."""
        return "" if find_spec(self.name) else f"not installed: pip install 'featherweight[{self.name}]'"

    def compile(self, content: bytes | Path, threads: int, *, wide: bool = False) -> Compute:
        """Return what a serialised ONNX model computes; what is not in integers is in float32.

        Args:
            content: the model; of more than 2 GiB, where it lies until this returns.
            threads: of one operator.
            wide: see `onnxruntime_session`.

        Raises:
            Exception: the runtime's own, where it cannot run the model.
        """
        raise NotImplementedError

    def open(
        self, graph: StoredGraph, tensors: Mapping[str, Array], weights: Mapping[str, Encoded],
        activations: Mapping[str, Quantizer], *, threads: int,
    ) -> Compute:  # fmt: skip
        """See `Backend.open`."""
        if activations:
            return self.compute(build_qdq(graph, tensors, weights, activations).onnx, threads=threads)
        if sum(tensor.nbytes for tensor in tensors.values()) <= MOST_ONNX:
            return self.compute(build_onnx(graph, tensors), threads=threads)
        with opened_onnx(*fed_onnx(graph, tensors)) as content:  # without another copy of them in between
            return self.compile(content, threads)

    def compute(self, model: onnx.ModelProto, *, threads: int, exact: bool = True) -> Compute:
        """Return what a complete ONNX model computes.

        Args:
            model: the model.
            threads: of one operator.
            exact: where 8-bit products of the model can saturate on this processor (x86 without VNNI), add them in
                int32, which is slower; or refuse, where the runtime cannot. Otherwise let them saturate.

        Raises:
            UnsupportedError: it cannot run the model without saturation, or not round its activations.
            Exception: the runtime's own, where it cannot run the model at all.
        """
        beyond = next((entry.value for entry in model.metadata_props if entry.key == ROUNDS), "")
        if beyond and not self.rounds:
            what = f"does not round activations to {beyond}"
            raise UnsupportedError(what, where=self.title, hint="run it in ONNX Runtime")
        narrow = self.saturating(model) if exact else []
        if narrow and not self.widens:
            raise UnsupportedError(
                "8-bit products saturate on this processor, which has no VNNI", where=self.title,
                got=f"{len(narrow)} layers whose weights allow it, the first {narrow[0]}",
                hint=f"{PORTABLE}; or run in ONNX Runtime, which can add them in 32 bits",
            )  # fmt: skip
        with opened_onnx(with_own_weights(model) if narrow else model) as content:
            del model
            return self.compile(content, threads, wide=bool(narrow))

    def saturating(self, model: onnx.ModelProto) -> list[str]:
        """Return the layers of a graph whose products can saturate on this processor, as `saturable` names them."""
        found = saturable(model, self.operators)
        return found if found and self.saturates() else []

    @cache  # noqa: B019
    def saturates(self) -> bool:
        """Return whether its products of unsigned by signed 8-bit numbers saturate in pairs on this processor.

        The runtime is asked, by a product of 8 pairs 255 x 127: flags of the processor do not tell what an emulator
        does, or a limit on instruction sets (ONEDNN_MAX_CPU_ISA). Seen on x86 without VNNI. AArch64 has not been
        tried: ONNX Runtime's source adds in int32 there (umlal, udot).
        """
        (output,) = self.compile(probe().SerializeToString(), 1)({"x": np.full((1, 16), 255, np.float32)})
        return bool(output.min() < 255)


class OnnxRuntime(OnnxBackend):
    """ONNX Runtime on the CPU."""

    name, title, rounds, widens, operators = "onnxruntime", "ONNX Runtime", True, True, OPERATORS

    def compile(self, content: bytes | Path, threads: int, *, wide: bool = False) -> Compute:
        """Return what a serialised ONNX model computes."""
        session = onnxruntime_session(content, threads, wide=wide)
        return lambda inputs: list(session.run(None, inputs))


class OpenVino(OnnxBackend):
    """OpenVINO on the CPU; it computes ONNX Runtime's own operators on integers in float."""

    name, title = "openvino", "OpenVINO"

    def compile(self, content: bytes | Path, threads: int, *, wide: bool = False) -> Compute:
        """Return what a serialised ONNX model computes."""
        model = openvino_model(content, threads)

        def compute(inputs: dict[str, Array]) -> list[Array]:
            results = model(inputs)
            return [np.array(results[port]) for port in model.outputs]

        return compute


BACKENDS: dict[str, Backend] = {
    kind.name: kind() for kind in with_plugins("featherweight.backends", (OnnxRuntime, OpenVino))
}


def usable(name: str) -> Backend:
    """Return the backend of a name.

    Raises:
        ConfigError: there is none.
        MissingExtraError: it cannot run on this machine.
    """
    if name not in BACKENDS:
        raise ConfigError("not a runtime", where="runtime", got=name, expected=", ".join(BACKENDS))
    if reason := BACKENDS[name].missing():
        raise MissingExtraError(reason, where=BACKENDS[name].title)
    return BACKENDS[name]


def onnx_backend(name: str) -> OnnxBackend:
    """Return the backend of a name, which runs any ONNX graph; raises as `usable` does.

    Raises:
        UnsupportedError: it runs `.fw` files alone.
    """
    found = usable(name)
    if not isinstance(found, OnnxBackend):
        raise UnsupportedError("runs .fw files, and no ONNX files", where=found.title)
    return found
