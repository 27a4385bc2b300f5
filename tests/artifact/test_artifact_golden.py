"""Files that were written once are read for ever, to the same bits."""

import hashlib
import json

import pytest
from make_golden import GOLDEN, digests

from featherweight.artifact import load
from featherweight.artifact.container import DICTIONARY

FILES = sorted(GOLDEN.glob("*.fw"))


def test_there_are_golden_files():
    assert {"small", "empty", "formats", "basis"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_files_are_read(path):
    record = json.loads(path.with_suffix(".json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == record["file"]
    artifact = load(path)
    assert digests(artifact) == record["tensors"]
    assert artifact.aliases == record["aliases"]
    assert artifact.facts == record["facts"]
    assert {k: [layer.kind, layer.arguments] for k, layer in artifact.structure.items()} == record[
        "structure"
    ]
    graph = artifact.graph
    assert (graph and hashlib.sha256(graph.onnx).hexdigest()) == record["graph"]
    assert (graph and graph.outputs) == record["outputs"]
    table = graph and [[i.name, i.tensor, list(i.permutation), list(i.shape)] for i in graph.initialisers]
    assert table == record["initialisers"]


def test_the_dictionary_of_version_1():
    """Its words are part of the format: other words are another version."""
    assert (
        hashlib.sha256(DICTIONARY).hexdigest()
        == "8b807b4ad2ee890efa51304f8ddd1bee5c9a2a44686c37a81d7e8f2bfc57c875"
    )
