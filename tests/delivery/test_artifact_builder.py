"""Sizes and metrics after each step: those of the file that the recipe would have made, had it ended there."""

from tiny import Tiny

from featherweight import Int, Recipe, Store, compress
from featherweight.errors import TaskError
from featherweight.events import Message
from featherweight.model import Note
from featherweight.techniques import Encode, Fold, Sparsify, Train

TRAIN, PRUNE, FOLD, CODE = Train(epochs=1), Sparsify(sparsity=0.5), Fold(), Encode(format=Int(bits=4))


def test_each_stage_is_the_file_of_the_recipe_up_to_it(tmp_path):
    steps = [TRAIN, FOLD, CODE]
    whole = compress(Tiny(), Recipe(steps), threads=1, store=Store(tmp_path)).summary
    assert [stage.step for stage in whole.stages] == ["train", "fold", "encode"]
    for count, stage in enumerate(whole.stages, start=1):
        alone = compress(Tiny(), Recipe(steps[:count]), threads=1, store=Store(tmp_path)).summary
        assert stage.nbytes == alone.file_bytes
        assert stage.metrics == alone.validation
    assert whole.stages[0].metrics == whole.baseline["validation"]
    assert whole.stages[-1].nbytes == whole.file_bytes


def test_a_network_that_comes_trained_is_the_first_stage(tmp_path):
    summary = compress(Tiny(), Recipe([CODE]), threads=1, store=Store(tmp_path)).summary
    assert [stage.step for stage in summary.stages] == ["given", "encode"]
    assert summary.stages[0].nbytes > summary.float_bytes > summary.stages[1].nbytes
    assert summary.stages[0].options == {}


def test_a_step_without_finite_metrics_is_no_end_of_the_run(tmp_path, monkeypatch):
    said = []

    def fails(model, *rest):
        if not model.weights:
            raise TaskError("metric accuracy is not finite")
        return {"accuracy": 0.5}

    monkeypatch.setattr("featherweight.delivery.artifact_builder.metrics", fails)
    summary = compress(Tiny(), Recipe([CODE]), threads=1, store=Store(tmp_path), events=said.append).summary
    assert [stage.metrics for stage in summary.stages] == [{}, {"accuracy": 0.5}]
    assert any(isinstance(event, Message) and "not finite" in event.text for event in said)


def test_a_graph_is_exported_once_a_structure(tmp_path, monkeypatch):
    asked = []

    def none(model, *rest):
        asked.append(model.structure)
        return None, [Note("skipped", "graph", "why")]

    monkeypatch.setattr("featherweight.delivery.artifact_builder.graph_of", none)
    summary = compress(Tiny(), Recipe([PRUNE, FOLD, CODE]), threads=1, store=Store(tmp_path)).summary
    assert len(asked) == 2, "before and after folding"
    assert summary.runtime == "torch"
