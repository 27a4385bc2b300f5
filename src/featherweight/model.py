"""The model: a module, its structure as data, the encoded form of its tensors. A value: steps return new ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.weak import WeakTensorKeyDictionary

from featherweight.activations import Quantizer
from featherweight.capture.program import Program, capture
from featherweight.capture.trace import canonical_names, views
from featherweight.errors import UnsupportedError
from featherweight.events import Note as Note
from featherweight.files import mapped
from featherweight.formats import Encoded, View
from featherweight.graph.graph import Edge
from featherweight.structure import LayerSpec, Structure, copied, restructure
from featherweight.task import Inputs
from featherweight.task.identity import hashed

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Model:
    """A network and what has been decided about it. Read it; do not change it: steps return new ones.

    Law: for every name in `weights`, the module's tensor equals `weights[name].decode()`, bit for bit, because
    `with_encoded` is the only way in. Models share the tensors they have in common.

    Attributes:
        module: the network, in eval mode.
        structure: what differs from `task.model()`.
        weights: encoded tensors by canonical name; all others are as the module has them.
        activations: quantizers by edge of the module's graph; edges that share one hold equal values.
        notes: what was skipped, thawed or chosen on the way here.
    """

    module: nn.Module
    structure: Structure = field(default_factory=dict)
    weights: Mapping[str, Encoded] = field(default_factory=dict)
    activations: Mapping[Edge, Quantizer] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    _programs: dict[str, Program] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, module: nn.Module) -> Model:
        """Return a model of `module` as it stands, sharing its tensors.

        A tensor whose elements are not in the order of its shape (channels last, a transposed view) is copied
        into it: how memory is strided decides no result.

        Raises:
            UnsupportedError: it is no plain Python module that can be copied, or has a tensor that is not dense,
                has no shape yet, or overlaps another one without being the same.
        """
        check_modules(module)
        check_memory(module)
        return cls(share(module, _in_order(module)).eval())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by canonical name, each once: the first name of a tied tensor."""
        state, names = self.module.state_dict(keep_vars=True), canonical_names(self.module)
        return {name: state[name] for name in dict.fromkeys(names.values())}

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Further names of tied tensors to their canonical name."""
        return {name: first for name, first in canonical_names(self.module).items() if name != first}

    @cached_property
    def views(self) -> dict[str, View]:
        """How each tensor is a matrix, by canonical name."""
        return views(self.module)

    def program(self, example: Inputs) -> Program:
        """Return the network captured on `example`; of models made of one another, of one structure, one is traced.

        Raises:
            UnsupportedError: the network cannot be captured; names the layer and why.
            TaskError: the network fails on its own example.
        """
        key = hashed(example)
        if key not in self._programs:
            self._programs[key] = capture(self.module, example)
        return self._programs[key].of(self.module)

    def with_encoded(self, encoded: Mapping[str, Encoded], notes: Iterable[Note] = ()) -> Model:
        """Return the model with these tensors replaced by what their bytes decode to."""
        decoded = ((name, torch.from_numpy(entry.decode())) for name, entry in encoded.items())
        module = self._replaced(decoded)  # one at a time: no second copy of all is alive
        return replace(self, module=module, weights={**self.weights, **encoded}, notes=(*self.notes, *notes))

    def with_tensors(
        self, values: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]], notes: Iterable[Note] = ()
    ) -> Model:
        """Return the model with these tensors replaced by floats; an encoding that no longer holds is dropped.

        A tensor whose new value equals its old one, bit for bit, keeps its encoding. Values are copied; pairs that are
        made one by one are never all there twice.
        """
        changed: list[str] = []

        def news() -> Iterator[tuple[str, Tensor]]:
            for name, value in values.items() if isinstance(values, Mapping) else values:
                if not equal_bits(value, self.tensors[name]):
                    changed.append(name)
                    yield name, value

        module, reason = self._replaced(news()), "its values changed after it was encoded"
        thawed = [Note("thawed", name, reason) for name in changed if name in self.weights]
        weights = {name: entry for name, entry in self.weights.items() if name not in changed}
        return replace(self, module=module, weights=weights, notes=(*self.notes, *notes, *thawed))

    def with_structure(
        self, layers: Mapping[str, LayerSpec], values: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
        notes: Iterable[Note] = (),
    ) -> Model:  # fmt: skip
        """Return the model with these layers replaced, and then these tensors set (by their new names).

        Quantizers of activations are dropped, for the edges of another structure have other names.
        """
        module = restructure(share(self.module), layers)
        inside = tuple(f"{path}." for path in layers)
        kept = {name: entry for name, entry in self.weights.items() if not name.startswith(inside)}
        gone = [Note("thawed", name, "its layer was rebuilt") for name in self.weights if name not in kept]
        if self.activations:
            reason = "the structure changed after calibration: calibrate again"
            gone.append(Note("thawed", "activations", reason))
        outer = {path: spec for path, spec in self.structure.items() if not path.startswith(inside)}
        model = Model(module.eval(), {**outer, **layers}, kept, notes=(*self.notes, *notes, *gone))
        return model.with_tensors(values)

    def with_activations(self, activations: Mapping[Edge, Quantizer], notes: Iterable[Note] = ()) -> Model:
        """Return the model with these quantizers on its edges, and no others."""
        return replace(self, activations=dict(sorted(activations.items())), notes=(*self.notes, *notes))

    def on_disk(self, before: Model, folder: Path) -> Model:
        """Return the model with the raw tensors that it does not share with `before` as maps of a file in `folder`."""
        own = {
            name: tensor for name, tensor in self.tensors.items()
            if name not in self.weights and tensor is not before.tensors.get(name) and tensor.numel()
        }  # fmt: skip
        maps = mapped([flat_bytes(tensor).numpy().data for tensor in own.values()], folder)
        replacement = {
            id(old): like(old, torch.from_numpy(data).view(old.dtype).reshape(old.shape))
            for old, data in zip(own.values(), maps, strict=True)
        }
        return replace(self, module=share(self.module, replacement))

    def with_notes(self, notes: Iterable[Note]) -> Model:
        """Return the model with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def _replaced(self, values: Iterable[tuple[str, Tensor]]) -> nn.Module:
        replacement: dict[int, Tensor] = {}
        for name, value in values:
            old = self.tensors[name]
            if old.shape != value.shape:
                got, expected = tuple(value.shape), tuple(old.shape)
                raise UnsupportedError("a tensor keeps its shape", where=name, got=got, expected=expected)
            replacement[id(old)] = _in_place_of(old, value.detach().to(dtype=old.dtype))
        return share(self.module, replacement)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of structure, tensors, encodings and quantizers: what a result that starts here depends on."""
        digest = hashlib.sha256(msgspec.json.encode(sorted(self.structure.items()), order="sorted"))
        for name, tensor in self.tensors.items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
            if name in self.weights:
                entry = self.weights[name]
                digest.update(msgspec.json.encode((entry.format, entry.coder), order="sorted"))
            digest.update(self.weights[name].digest if name in self.weights else digest_of(tensor))
        digest.update(msgspec.json.encode(self.aliases, order="sorted"))
        digest.update(msgspec.json.encode(self.activations, order="sorted"))
        return digest.hexdigest()


def _in_order(module: nn.Module) -> dict[int, Tensor]:
    """Return copies in the order of their shape of the tensors that are strided otherwise, by `id`."""
    every = (*module.parameters(), *module.buffers())
    plain = {id(tensor): torch.empty(tensor.shape, device="meta").stride() for tensor in every}
    return {id(t): _in_place_of(t, t.detach()) for t in every if t.stride() != plain[id(t)]}


def _in_place_of(old: Tensor, value: Tensor) -> Tensor:
    """Return a copy of `value` in the order of its shape; a parameter where `old` is one."""
    return like(old, value.clone(memory_format=torch.contiguous_format))


def like(old: Tensor, new: Tensor) -> Tensor:
    """Return `new`, as a parameter where `old` is one."""
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def share(module: nn.Module, replacement: Mapping[int, Tensor] | None = None) -> nn.Module:
    """Return a copy of `module` whose tensors are the same objects, but for those in `replacement` (by `id`).

    Raises:
        UnsupportedError: it cannot be copied; names the innermost module that cannot.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    memo.update(replacement or {})
    return copied(module, memo)


def check_modules(module: nn.Module) -> None:
    """Refuse TorchScript: its modules can neither be rebuilt nor share their tensors.

    Raises:
        UnsupportedError: names the module.
    """
    for path, submodule in module.named_modules():
        if isinstance(submodule, torch.jit.ScriptModule):
            raise UnsupportedError(
                "a TorchScript module", where=path or "the network", got=type(submodule).__name__,
                expected="torch.nn.Module", hint="give the module as it was before torch.jit.script or torch.jit.trace",
            )  # fmt: skip


def check_memory(module: nn.Module) -> None:
    """Refuse tensors that cannot be stored one by one: without memory, or sharing it without being one tensor.

    Raises:
        UnsupportedError: names the tensor, or both.
    """
    spans: list[tuple[int, int, str, Tensor]] = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if is_lazy(tensor):
            hint = "run the network once, on an example, before it is given away"
            raise UnsupportedError("has no shape yet", where=name, got=type(tensor).__name__, hint=hint)
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta"
        if not plain or tensor.is_quantized or tensor.is_complex():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise UnsupportedError("not a plain dense tensor of real numbers", where=name, got=got)
        if tensor.numel():
            start = tensor.data_ptr()
            span = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True)) + 1
            spans.append((start, start + span * tensor.element_size(), name, tensor))
    spans.sort(key=lambda entry: entry[:2])
    for (_, end, first, a), (start, _, second, b) in pairwise(spans):
        if start < end and a is not b:
            what = f"shares memory with {second} without being the same tensor"
            hint = "tie whole tensors (module_b.weight = module_a.weight), not views of them"
            raise UnsupportedError(what, where=first, hint=hint)


def equal_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors hold the same bits."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(flat_bytes(a), flat_bytes(b))


def digest_of(tensor: Tensor) -> bytes:
    """Return the SHA-256 of the bytes of a tensor; computed once, until it is written to.

    Models share most tensors, and keys of results ask for the hash of every model of a run.
    """
    version = -1 if tensor.is_inference() else tensor._version
    if tensor in _DIGESTS and _DIGESTS[tensor][0] == version >= 0:
        return _DIGESTS[tensor][1]
    digest = hashlib.sha256(flat_bytes(tensor).numpy().data).digest()
    _DIGESTS[tensor] = version, digest
    return digest


_DIGESTS: MutableMapping[Tensor, tuple[int, bytes]] = WeakTensorKeyDictionary()


def flat_bytes(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, row-major; a view where it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8) if flat.numel() else torch.zeros(0, dtype=torch.uint8)


def to_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, row-major, little-endian."""
    array: Array = flat_bytes(tensor).numpy()
    return array.tobytes()
