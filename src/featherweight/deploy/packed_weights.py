"""Weights as `compressed-tensors` keeps them, for servers of language models: packed integers, scales, a config."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from featherweight.artifact import Artifact
from featherweight.deploy.write import Written
from featherweight.errors import MissingExtraError, UnsupportedError
from featherweight.files import write_whole
from featherweight.formats import Encoded, Int
from featherweight.formats.basis import as_integers
from featherweight.integers import steps_of

Scheme = tuple[int, int]  # bits, and weights that share a scale; 0: a whole row
WEIGHTS, CONFIG = "model.safetensors", "config.json"


def write_packed(artifact: Artifact, folder: str | Path) -> Written:
    """Write all weights of a file as `compressed-tensors`, format `pack-quantized`: `model.safetensors`, `config.json`.

    Integers and scales are those of the file: what the library reads back equals the decoded weights, bit for bit, or
    nothing is written. Tensors that are no matrices of integers stay floats and are named. The config is that of the
    quantization alone; what else a config of a network says is to be put beside it.

    Args:
        artifact: a loaded file.
        folder: is made; gets the two files.

    Raises:
        MissingExtraError: the library is not installed.
        UnsupportedError: no tensor fits, or one is read back as other numbers.
        WriteError: a file cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch
            from compressed_tensors.compressors.pack_quantized import (
                PackedQuantizationCompressor,
                pack_to_int32,
            )
            from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
            from safetensors.torch import save
        except ModuleNotFoundError as error:
            hint = "pip install 'featherweight[compressed-tensors]'"
            raise MissingExtraError(
                f"not installed: {error.name}", where="compressed-tensors", hint=hint
            ) from error
    decoded, _ = artifact.opened()
    tensors: dict[str, Any] = {}
    groups: dict[Scheme, list[str]] = {}
    floats: dict[str, str] = {}
    for name in artifact.names:
        encoded = artifact.tensors[name]
        encoded = as_integers(encoded) if isinstance(encoded, Encoded) else encoded
        real = torch.from_numpy(np.array(decoded[name]))
        reason = obstacle(name, encoded)
        if reason or not isinstance(encoded, Encoded):
            tensors[name] = real
            if isinstance(encoded, Encoded):
                floats[name] = reason
            continue
        module, scheme = name.removesuffix(".weight"), scheme_of(encoded)
        groups.setdefault(scheme, []).append(module)
        scale = encoded.parts["scale"].astype(np.float32).reshape(-1)
        scale = np.repeat(scale, encoded.view.rows) if scale.size == 1 else scale
        kept = {
            "weight_packed": pack_to_int32(torch.from_numpy(steps_of(encoded).astype(np.int8)), scheme[0]),
            "weight_scale": torch.from_numpy(scale.reshape(encoded.view.rows, -1)),
            "weight_shape": torch.tensor(encoded.view.shape),
        }
        arguments = QuantizationArgs(**_weights(scheme))
        read = PackedQuantizationCompressor.decompress(
            kept, QuantizationScheme(targets=[module], weights=arguments)
        )
        if not torch.equal(read["weight"], real):
            raise UnsupportedError("is read back as other numbers, so nothing was written", where=name)
        tensors |= {f"{module}.{part}": tensor for part, tensor in kept.items()}
    if not groups:
        what, got = (
            "no tensor is a matrix of integers",
            "; ".join(dict.fromkeys(floats.values())) or "floats alone",
        )
        raise UnsupportedError(what, where="the file", got=got, expected="int of at most 8 bits")
    config = {
        "quantization_config": {
            "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
            "ignore": [],
            "config_groups": {
                f"group_{k}": {"targets": modules, "weights": _weights(scheme), "input_activations": None}
                for k, (scheme, modules) in enumerate(groups.items())
            },
        }
    }  # fmt: skip
    files = {WEIGHTS: save(tensors, {"format": "pt"}), CONFIG: json.dumps(config, indent=1).encode()}
    paths = tuple(write_whole(Path(folder) / name, content) for name, content in files.items())
    count = sum(map(len, groups.values()))
    said = f"{count} weights read back by compressed-tensors, equal to the decoded ones bit for bit"
    return Written(paths, sum(map(len, files.values())), floats, said)


def obstacle(name: str, encoded: Any) -> str:
    """Return why a tensor cannot be packed, or an empty string."""
    if not isinstance(encoded, Encoded) or not isinstance(encoded.format, Int) or encoded.format.bits > 8:
        return "it is not encoded as integers of at most 8 bits"
    if len(encoded.view.shape) != 2 or encoded.view.permutation != (0, 1) or not name.endswith(".weight"):
        return "it is no matrix of rows that are outputs"
    if np.any(encoded.parts.get("zero_point", 0)):
        return "its zero points are not 0"
    per = encoded.format.per
    if isinstance(per, int) and encoded.view.cols % per:
        return f"its groups of {per} do not divide its rows"
    return ""


def scheme_of(encoded: Encoded) -> Scheme:
    """Return bits and group of a weight of which `obstacle` is empty."""
    per = encoded.format.per  # type: ignore[attr-defined]
    return encoded.format.bits, per if isinstance(per, int) else 0  # type: ignore[attr-defined]


def _weights(scheme: Scheme) -> dict[str, Any]:
    bits, group = scheme
    strategy: dict[str, Any] = (
        {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    )
    return {"num_bits": bits, "type": "int", "symmetric": True, **strategy}
