"""Write the golden files that are not there yet; those that are there stay for ever."""

import hashlib
import json
from pathlib import Path

import numpy as np
from artifact_cases import numbers, small

from featherweight.artifact import Artifact, Contents, dumps, loads
from featherweight.formats import Astc, Basis, Clustered, Float, Int, Log2, View
from featherweight.formats.astc.tables import FOOTPRINTS
from featherweight.formats.coders import Bitmask, Cabac, Fixed, Gaps, Huffman, Rans, Zstd

GOLDEN = Path(__file__).parent / "golden"


def every_format_and_coder():
    kinds = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
    formats = [Float(kind) for kind in kinds] + [Float("float8_e4m3fn", per="channel")]
    formats += [Int(bits, scheme) for bits in (1, 2, 3, 8, 11, 16, 32) for scheme in ("symmetric", "affine")]
    formats += [Int(4, per="tensor"), Int(4, per=7), Log2(4), Log2(6, fraction=2), Clustered(1), Clustered(5)]
    coders = [
        Fixed(),
        Rans(),
        Huffman(),
        Zstd(),
        Bitmask(values=Rans()),
        Gaps(3, values=Huffman(), gaps=Huffman()),
    ]
    weight = numbers((6, 30), 1, 0.5)
    tensors = {}
    for number, form in enumerate(formats):
        encoded = form.encode(weight)
        for coder in coders:
            if not coder.misfit(encoded.spec):
                tensors[f"t{number}.{coder.__struct_config__.tag}"] = encoded.recoded(coder)
    return Contents(tensors)


def astc():
    """ASTC blocks of every footprint and kind, under the coder that keeps them as they are."""
    weight = numbers((30, 31), 2, 0.5)
    formats = [Astc(footprint=footprint, per="tensor") for footprint in FOOTPRINTS]
    formats += [Astc("4x4", 4), Astc("12x12", 4), Astc("6x6", 1, "float16"), Astc("8x5", preset="best")]
    return Contents({f"t{number}": form.encode(weight) for number, form in enumerate(formats)})


def basis():
    """Binary codes and bases, fitted and geometric, under every coder that takes them."""
    weight, view = numbers((6, 30), 3, 0.0), View((6, 30))
    formats = [Basis(bits, per) for bits in (1, 2, 5, 8) for per in ("tensor", "channel", 7)]
    tensors = {f"t{number}": form.encode(weight) for number, form in enumerate(formats)}
    parts = {"basis": np.float32(numbers((6, 1), 4, 0.0) ** 2 * 2.0 ** np.arange(4))}
    tensors["geometric"] = Basis(4).encode(weight, view=view, parts=parts)
    coders = (Fixed(), Rans(), Huffman(), Zstd(), Cabac())
    kept = ((n, t, c) for n, t in tensors.items() for c in coders if not c.misfit(t.spec))
    return Contents({f"{n}.{c.__struct_config__.tag}": t.recoded(c) for n, t, c in kept})


def digests(artifact: Artifact) -> dict[str, str]:
    """Return a hash of type, shape and bytes of each decoded tensor."""
    values = artifact.weights()
    heads = {name: f"{value.dtype.str} {value.shape} ".encode() for name, value in values.items()}
    return {name: hashlib.sha256(heads[name] + value.tobytes()).hexdigest() for name, value in values.items()}


def main():
    for name, contents in {
        "small": small(),
        "empty": Contents({}),
        "formats": every_format_and_coder(),
        "astc": astc(),
        "basis": basis(),
        "small-version-2": small(),
    }.items():
        path = GOLDEN / f"{name}.fw"
        if path.exists():
            continue
        path.write_bytes(dumps(contents))
        artifact = loads(path.read_bytes())
        graph = artifact.graph
        record = {
            "file": hashlib.sha256(path.read_bytes()).hexdigest(),
            "tensors": digests(artifact),
            "aliases": dict(artifact.aliases),
            "facts": artifact.facts,
            "structure": {k: [layer.kind, layer.arguments] for k, layer in artifact.structure.items()},
            "graph": graph and hashlib.sha256(graph.onnx).hexdigest(),
            "outputs": graph and graph.outputs,
            "initialisers": graph
            and [[i.name, i.tensor, i.permutation, i.shape] for i in graph.initialisers],
        }
        path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
