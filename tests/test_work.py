"""Units of work: the same answers on every executor, each asked once; errors keep their kind on the way."""

from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import msgspec
import pytest
import torch
from torch import nn

from featherweight import Classification, Int, Store
from featherweight.errors import ConfigError, TaskError, UnsupportedError, WriteError
from featherweight.model import Model, equal_bits
from featherweight.task import Restricted
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.work import Subject, Unit, work
from featherweight.workspace import Workspace


def task():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    x = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    y = network(x).argmax(1)
    return Classification(network, train=(x, y), test=(x, y))


class Coded(msgspec.Struct, frozen=True):
    name: str
    bits: int
    cost: float = 0.0


def coded(subject: Subject, question: Coded) -> Model:
    """The first model with one tensor of the second one, encoded."""
    with (subject.workspace.store.folder / "asked").open("a") as told:
        told.write(f"{question.bits}\n")
    student, teacher = subject.models
    step = Encode(where=question.name, format=Int(bits=question.bits))
    other = step.apply(teacher, subject.workspace.task, Context(subject.workspace.seed))
    return student.with_encoded({question.name: other.weights[question.name]})


def read(subject: Subject, question: str) -> bytes:
    """The bytes of a tensor of the model."""
    return subject.model.tensors[question].detach().numpy().tobytes()


def labels(subject: Subject, question: int) -> float:
    """What no unlabelled step may know."""
    return subject.workspace.task.metrics(lambda x: x, "validation")["accuracy"]


def fails(subject: Subject, question: str) -> int:
    if question == "full":
        raise WriteError("somewhere", OSError(28, "No space left on device"))
    if question == "foreign":
        raise ZeroDivisionError("of a network")
    raise TaskError("not so", where="here", got=3, hint="otherwise")


QUESTIONS = [Coded("0.weight", 2, 1.0), Coded("2.weight", 4, 3.0), Coded("0.weight", 8, 2.0)]


def models():
    student = Model.of(task().model())
    teacher = student.with_tensors({name: tensor * 0.5 for name, tensor in student.tensors.items()})
    return student, teacher


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def subject(folder, executor=None, seed=0):
    folder.mkdir(exist_ok=True)
    return Subject(models(), Workspace(task(), seed, 1, Store(folder), executor=executor))


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor


class Here(Executor):
    """Runs what is submitted at once, in its order."""

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def test_models_are_answers_the_same_by_other_processes_and_each_is_made_once(tmp_path, processes):
    alone = list(subject(tmp_path / "alone").answers(coded, QUESTIONS))
    apart = list(subject(tmp_path / "apart", processes).answers(coded, QUESTIONS))
    assert [model.hash for model in apart] == [model.hash for model in alone]
    assert [list(model.weights) for model in alone] == [["0.weight"], ["2.weight"], ["0.weight"]]
    assert asked(tmp_path / "alone") == ["2", "4", "8"]
    assert sorted(asked(tmp_path / "apart")) == ["2", "4", "8"]
    again = list(subject(tmp_path / "apart").answers(coded, QUESTIONS))
    assert [model.hash for model in again] == [model.hash for model in alone]
    assert len(asked(tmp_path / "apart")) == 3, "what has an answer is not asked again"
    files = [
        {p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("alone", "apart")
    ]
    assert all(files[1][name] == content for name, content in files[0].items() if name != "asked")


def test_what_an_answer_did_not_change_is_shared_with_the_first_model(tmp_path):
    given = subject(tmp_path)
    found = next(given.answers(coded, QUESTIONS))
    assert found.tensors["2.weight"] is given.model.tensors["2.weight"]
    assert not equal_bits(found.tensors["0.weight"], given.model.tensors["0.weight"])


def test_the_largest_cost_begins_first_and_answers_keep_the_order_of_the_questions(tmp_path):
    found = list(subject(tmp_path, Here()).answers(coded, QUESTIONS))
    assert asked(tmp_path) == ["4", "8", "2"]
    assert [next(iter(model.weights.values())).format.bits for model in found] == [2, 4, 8]


def test_an_answer_depends_on_seed_question_and_models(tmp_path):
    for seed in (0, 1, 1):
        list(subject(tmp_path, seed=seed).answers(coded, QUESTIONS[:1]))
    given = subject(tmp_path)
    changed = (given.model, given.model)
    list(Subject(changed, given.workspace).answers(coded, QUESTIONS[:1]))
    assert asked(tmp_path) == ["2"] * 3


def test_a_step_asks_with_what_it_may_see_and_keeps_nothing_without_a_store():
    student, _ = models()
    names = ["2.weight", "0.weight"]
    found = list(Context().answers(read, task(), [student], names))
    assert found == [student.tensors[name].detach().numpy().tobytes() for name in names]
    with pytest.raises(TaskError, match="asked for metrics"):
        list(Context().answers(labels, Restricted(task(), "unlabelled"), [student], [0]))


def test_workers_keep_to_what_a_step_may_see(tmp_path):
    student, _ = models()
    for needs in ("labelled", "unlabelled"):
        given = Subject(
            [student], Workspace(Restricted(task(), needs), 0, 1, Store(tmp_path), executor=Here())
        )
        if needs == "labelled":
            list(given.answers(labels, [0]))
        else:
            with pytest.raises(TaskError, match="asked for metrics"):
                list(given.answers(labels, [1]))


@pytest.mark.parametrize(
    ("question", "kind", "message"),
    [
        ("full", WriteError, "somewhere: cannot be written: No space left on device"),
        ("foreign", UnsupportedError, "failed: ZeroDivisionError: of a network"),
        ("own", TaskError, "here: not so: got 3\nhint: otherwise"),
    ],
)
def test_an_error_of_a_worker_is_the_one_of_the_question(tmp_path, processes, question, kind, message):
    with pytest.raises(kind) as caught:
        list(subject(tmp_path, processes).answers(fails, [question]))
    assert str(caught.value) == message
    if kind is WriteError:
        assert caught.value.errno == 28


def test_a_worker_without_what_it_needs_says_so(tmp_path):
    unit = Unit(str(tmp_path), ("model",), 0, 1, "key", msgspec.Raw(msgspec.msgpack.encode("question")))
    with pytest.raises(ConfigError, match="the store does not hold a model of a unit of work"):
        work(read, msgspec.msgpack.encode(unit), task())
