"""Sizes and metrics after each step: those of the file that the recipe would have made, had it ended there."""

import pytest
from tiny import Tiny

from featherweight import Float, Int, Recipe, Store, compress
from featherweight.delivery.delivery import measure
from featherweight.errors import TaskError, UnsupportedError
from featherweight.evaluation.metrics import Evaluation, Evaluator, metrics
from featherweight.events import Message
from featherweight.export.onnx import export_and_why
from featherweight.recipe.runner import execute
from featherweight.techniques import Calibrate, Encode, Fold, Sparsify, Train
from featherweight.workspace import Workspace

TRAIN, PRUNE, FOLD, CODE = Train(epochs=1), Sparsify(sparsity=0.5), Fold(), Encode(format=Int(bits=4))


def test_each_stage_is_the_file_of_the_recipe_up_to_it(tmp_path):
    steps = [TRAIN, FOLD, CODE]
    whole = compress(Tiny(), Recipe(steps), threads=1, store=Store(tmp_path)).summary
    assert [stage.step for stage in whole.stages] == ["train", "fold", "encode"]
    for count, stage in enumerate(whole.stages, start=1):
        alone = compress(Tiny(), Recipe(steps[:count]), threads=1, store=Store(tmp_path)).summary
        assert stage.metrics == alone.validation
        # The network is exported as it is at the end: before folding, its own graph would be another.
        assert abs(stage.nbytes - alone.file_bytes) < (300 if count == 1 else 1)
    assert whole.stages[0].metrics == whole.baseline["validation"]
    assert whole.stages[-1].nbytes == whole.file_bytes


def test_a_network_that_comes_trained_is_the_first_stage(tmp_path):
    summary = compress(Tiny(), Recipe([CODE]), threads=1, store=Store(tmp_path)).summary
    assert [stage.step for stage in summary.stages] == ["given", "encode"]
    assert summary.stages[0].nbytes > summary.float_bytes > summary.stages[1].nbytes
    assert summary.stages[0].options == {}


def test_a_step_without_finite_metrics_is_no_end_of_the_run(tmp_path, monkeypatch):
    said = []
    workspace = Workspace(Tiny(), threads=1, store=Store(tmp_path), events=said.append)
    made = execute(Recipe([PRUNE, CODE]), workspace)

    def fails(self, model, split):
        if model is made[1].model:
            raise TaskError("metric accuracy is not finite")
        return Evaluation({"accuracy": 0.5})

    monkeypatch.setattr(Evaluator, "evaluation", fails)
    assert measure(made, Evaluator(workspace, made[-1].model, None)) == [
        {"accuracy": 0.5},
        {},
        {"accuracy": 0.5},
    ]
    assert any(isinstance(event, Message) and "not finite" in event.text for event in said)


def test_the_network_is_exported_once_and_each_state_is_evaluated_once(tmp_path, monkeypatch):
    exported, evaluated = [], []

    def export(*arguments, **options):
        exported.append(arguments)
        return export_and_why(*arguments, **options)

    def evaluate(predict, task, split):
        evaluated.append(split)
        return Evaluation(metrics(predict, task, split))

    monkeypatch.setattr("featherweight.delivery.preparation.export_and_why", export)
    monkeypatch.setattr("featherweight.evaluation.metrics.evaluated", evaluate)
    steps = [PRUNE, FOLD, CODE, Calibrate(), Encode(where=["*", "!weights"], format=Float(kind="float16"))]
    summary = compress(Tiny(), Recipe(steps), threads=1, store=Store(tmp_path)).summary
    assert len(exported) == 1, "as it is at the end, not before folding"
    assert sorted(evaluated) == ["test"] + ["validation"] * 6, "the float network and five steps; test twice"
    assert summary.runtime == "onnxruntime"


def test_quantized_activations_without_a_graph_are_refused(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise UnsupportedError("no such operator")

    monkeypatch.setattr("featherweight.delivery.preparation.export_and_why", fails)
    heard = []
    weights = compress(Tiny(), Recipe([CODE]), threads=1, store=Store(tmp_path), events=heard.append)
    assert weights.artifact.graph is None
    assert any(isinstance(event, Message) and "runs in no runtime" in event.text for event in heard)
    with pytest.raises(UnsupportedError, match=r"no runtime can run the network: got .*no such operator"):
        compress(Tiny(), Recipe([CODE, Calibrate()]), threads=1, store=Store(tmp_path))
