"""An ONNX file as a task: its splits, its measure, its fingerprint, and what a compression of it reports and makes."""

import numpy as np
import onnxruntime
import pytest
import torch
from small_onnx import small_onnx

import featherweight
from featherweight.capture.onnx_task import LEAST
from featherweight.errors import ConfigError, TaskError
from featherweight.export import onnx_of, qdq_of, serialized
from featherweight.files import Store
from featherweight.techniques import Calibrate, Encode


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def classifier(tmp_path):
    return small_onnx("classes", tmp_path)


def rows(task, split):
    batches = task.batches(split, seed=0, epoch=0)
    return {
        tuple(row.reshape(-1).tolist())
        for batch in batches
        for row in next(iter(task.inputs(batch).values()))
    }


def test_no_input_is_in_two_splits_and_all_are_in_one(classifier):
    pixels = normal(101, 16)
    task = featherweight.from_onnx(classifier, pixels)
    parts = [rows(task, split) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == 101 == len(set.union(*parts))
    assert [len(part) for part in parts] == [51, 25, 25]
    assert rows(task, "calibration") <= parts[0]
    assert "51 calibrate, 25 choose, 25 are the test" in " ".join(note.reason for note in task.notes)


def test_too_few_inputs_say_how_many_are_needed(classifier):
    featherweight.from_onnx(classifier, normal(LEAST, 16))
    with pytest.raises(TaskError, match=f"got {LEAST - 1}, expected {LEAST} or more"):
        featherweight.from_onnx(classifier, normal(LEAST - 1, 16))
    own = featherweight.from_onnx(
        classifier, normal(8, 16), validation=normal(3, 16, seed=1), test=normal(2, 16, seed=2)
    )
    assert [len(rows(own, split)) for split in ("train", "validation", "test")] == [8, 3, 2]


def test_the_fingerprint_is_of_the_file_and_of_the_inputs(tmp_path):
    path, pixels = small_onnx("classes", tmp_path), normal(40, 16)
    known = featherweight.from_onnx(path, pixels).fingerprint()
    assert featherweight.from_onnx(path, pixels.copy()).fingerprint() == known
    changed = pixels.copy()
    changed[7, 3] += 1
    assert featherweight.from_onnx(path, changed).fingerprint() != known
    assert featherweight.from_onnx(path, pixels, outputs="values").fingerprint() != known
    assert featherweight.from_onnx(small_onnx("classes", tmp_path, seed=1), pixels).fingerprint() != known


def test_a_softmax_has_classes_where_it_sums(tmp_path, classifier):
    task = featherweight.from_onnx(classifier, normal(40, 16))
    assert (task.outputs, task.axis) == ("classes", 1)
    read = featherweight.from_onnx(small_onnx("sequence", tmp_path), normal(40, 7, 8))
    assert (read.outputs, read.axis) == ("classes", -1)
    other = featherweight.from_onnx(tmp_path / "sequence.onnx", normal(40, 7, 8), outputs="values")
    assert other.outputs == "values"
    with pytest.raises(ConfigError, match="an axis of classes for values"):
        featherweight.from_onnx(tmp_path / "sequence.onnx", normal(40, 7, 8), outputs="values", axis=-1)


def test_agreement_of_a_sequence_is_the_share_of_steps(tmp_path):
    task = featherweight.from_onnx(small_onnx("sequence", tmp_path), normal(40, 7, 8))
    network = task.model().eval()

    def half(inputs):  # another class at steps 0, 2, 4, 6 of every sample
        made = network(**inputs)
        made[:, ::2] = made[:, ::2].roll(1, -1)
        return made

    with torch.no_grad():
        assert task.metrics(lambda inputs: network(**inputs), "test")["agreement"] == 1
        assert task.metrics(half, "test")["agreement"] == pytest.approx(3 / 7)
        assert task.scores(half, "test").shape == (10,)


@pytest.fixture
def listened(tmp_path):
    path = small_onnx("state", tmp_path)
    calls = {"input": normal(32, 1, 8), "state": normal(32, 2, 1, 4, seed=1), "rate": np.array(2)}
    return path, calls


def test_calls_with_a_state_and_a_setting_are_compressed_and_run_as_the_file_does(listened):
    path, calls = listened
    task = featherweight.from_onnx(path, calls)
    assert task.whole
    assert task.outputs == "values"
    result = featherweight.compress(task, "w8a8", threads=1)
    assert result.summary.test["agreement"] > 0.9
    assert any(
        note.name == "rate" and note.reason.startswith("2 in every call") for note in result.summary.notes
    )
    (split,) = (note.reason for note in result.summary.notes if note.name == "splits")
    assert "16 calibrate, 8 choose, 8 are the test" in split
    theirs = onnxruntime.InferenceSession(path)
    ours = onnxruntime.InferenceSession(serialized(qdq_of(result.artifact).onnx))
    fed = {"input": calls["input"][3], "state": calls["state"][3], "rate": np.array(2)}
    found = ours.run(None, {value.name: fed[value.name] for value in ours.get_inputs()})
    for a, b in zip(found, theirs.run(None, fed), strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() < 0.1


def test_a_part_of_another_kind_or_setting_is_refused(listened):
    path, calls = listened
    with pytest.raises(TaskError, match="not inputs of one kind"):
        featherweight.from_onnx(path, calls, test=calls | {"rate": np.array(3)})


def test_the_example_of_calls_has_a_batch_of_two_where_it_is_free(listened):
    path, calls = listened
    example = featherweight.from_onnx(path, calls).example()
    assert [tuple(tensor.shape) for tensor in example.values()] == [(2, 8), (2, 2, 4), ()]


def test_where_not_every_axis_can_be_free_the_batch_still_is(tmp_path):
    path = small_onnx(
        "window", tmp_path
    )  # its first axis is the batch; the other, free by its word, has to be 16
    task = featherweight.from_onnx(path, normal(40, 16))
    network = task.model()
    assert network.dynamic_shapes() == {"heard": (0, 1)}
    assert network.batch_axes() == {"heard": (0,)}
    result = featherweight.compress(task, "w8a8", threads=1)
    session = onnxruntime.InferenceSession(serialized(qdq_of(result.artifact).onnx))
    assert session.run(None, {"heard": normal(5, 16)})[0].shape == (5, 4)


def test_which_axes_stay_free_is_said_and_why_others_do_not(tmp_path):
    recipe = featherweight.Recipe([Encode()])
    task = featherweight.from_onnx(small_onnx("window", tmp_path), normal(40, 16))
    for _ in range(2):  # the second time the graph comes out of the store
        (said,) = (n.reason for n in compressed(task, recipe, tmp_path).summary.notes if n.name == "axes")
        assert said.startswith(
            "of any size: axis 0 of heard (batch); fixed: axis 1 of heard (time) is 16, for"
        )
        assert "fixes the size" in said or "cannot be traced" in said
    other = featherweight.from_onnx(small_onnx("classes", tmp_path), normal(40, 16))
    (said,) = (n.reason for n in compressed(other, recipe, tmp_path).summary.notes if n.name == "axes")
    assert said == "of any size: axis 0 of pixels (batch)"
    whole = featherweight.from_onnx(small_onnx("images", tmp_path), normal(40, 1, 3, 16, 16))
    assert not [n for n in compressed(whole, recipe, tmp_path).summary.notes if n.name == "axes"]


def compressed(task, recipe, folder):
    return featherweight.compress(task, recipe, threads=1, store=Store(folder / "store"))


def test_rows_of_a_table_are_counted_from_its_end_too(tmp_path):
    path = small_onnx("words", tmp_path)
    ids = np.random.default_rng(0).integers(-12, 12, (64, 5))
    assert (ids < 0).any()
    task = featherweight.from_onnx(path, ids)
    made = compressed(task, featherweight.Recipe([Encode(), Calibrate(samples=16)]), tmp_path)
    assert "h.weight" in {row.name for row in made.summary.rows}
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"ids": ids})
    for content in (onnx_of(made.artifact), qdq_of(made.artifact).onnx):
        (found,) = onnxruntime.InferenceSession(serialized(content)).run(None, {"ids": ids})
        assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    folded = np.where(ids < 0, ids + 12, ids)
    (same,) = onnxruntime.InferenceSession(serialized(content)).run(None, {"ids": folded})
    np.testing.assert_array_equal(found, same)


def test_sizes_may_differ_from_call_to_call(tmp_path):
    path = small_onnx("sequence", tmp_path)
    folder = tmp_path / "calls"
    folder.mkdir()
    for n in range(24):
        np.save(folder / f"{n:02}.npy", normal(1, 3 + n % 4, 8, seed=n))
    task = featherweight.from_onnx(path, folder)
    result = featherweight.compress(task, "w8a8", threads=1)
    assert result.artifact.graph is not None
    assert result.summary.test["agreement"] > 0.9
    session = onnxruntime.InferenceSession(serialized(qdq_of(result.artifact).onnx))
    (value,) = session.get_inputs()
    assert session.run(None, {value.name: normal(3, 11, 8)})[0].shape == (3, 11, 5)


def test_what_is_no_onnx_file_is_one_error(tmp_path):
    (tmp_path / "text.onnx").write_text("no protocol buffer of anyone's")
    with pytest.raises(featherweight.FeatherweightError, match="not an ONNX file"):
        featherweight.from_onnx(tmp_path / "text.onnx", normal(40, 16))
