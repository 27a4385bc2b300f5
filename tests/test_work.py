"""Units of work: the same answers on every executor, each asked once; errors keep their kind on the way."""

import os
import signal
import subprocess
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Timer

import msgspec
import pytest
import torch
from torch import nn

from featherweight import Classification, Int, Store
from featherweight.errors import ConfigError, TaskError, UnsupportedError, WriteError
from featherweight.events import Message
from featherweight.executors import executor_of
from featherweight.files import key_of
from featherweight.model import Model, equal_bits
from featherweight.task import Restricted
from featherweight.techniques import Encode
from featherweight.techniques.base import Context
from featherweight.work import TRIES, Subject, Unit, found, work, world
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


def dies_once(subject: Subject, question: Coded) -> Model:
    """As `coded`, but the first worker that is asked for 2 bits is killed on the way."""
    mark = subject.workspace.store.folder / "killed"
    if question.bits == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return coded(subject, question)


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
    with executor_of("processes:2") as executor:
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


def test_a_killed_worker_costs_its_unit_and_nothing_else(tmp_path, processes):
    alone, heard = list(subject(tmp_path / "alone").answers(coded, QUESTIONS)), []
    given = subject(tmp_path / "apart", processes)
    given = replace(given, workspace=replace(given.workspace, events=heard.append))
    made = list(given.answers(dies_once, QUESTIONS))
    assert [model.hash for model in made] == [model.hash for model in alone]
    assert sorted(asked(tmp_path / "apart")) == ["2", "4", "8"]
    assert [event.text for event in heard if isinstance(event, Message)] == [
        "a unit of work was lost, and begins again: BrokenExecutor: a worker process died: exit code -9"
    ]


class Broken(Here):
    """Loses a unit so often; `moves` of these leave a checkpoint behind that is newer than the one before."""

    def __init__(self, times, moves=0, folder=None):
        self.times, self.moves, self.folder, self.lost = times, moves, folder, 0

    def submit(self, function, /, *args, **kwargs):
        future = Future()
        if self.lost == self.times:
            return super().submit(function, *args, **kwargs)
        self.lost += 1
        if self.lost <= self.moves:
            scratch = self.folder / msgspec.msgpack.decode(args[1], type=Unit).key
            scratch.mkdir(exist_ok=True, parents=True)
            (scratch / "checkpoint").touch()
            os.utime(scratch / "checkpoint", (self.lost, self.lost))
        future.set_exception(BrokenExecutor("gone"))
        return future


def test_what_is_lost_again_and_again_is_one_error(tmp_path):
    assert len(list(subject(tmp_path / "a", Broken(TRIES - 1)).answers(coded, QUESTIONS[:1]))) == 1
    executor = Broken(9 * TRIES)
    with pytest.raises(
        UnsupportedError, match=rf"lost {TRIES} times, and got no further: BrokenExecutor: gone\n.*memory"
    ):
        list(subject(tmp_path / "b", executor).answers(coded, QUESTIONS))
    assert executor.lost <= 3 * TRIES


def test_losses_do_not_count_while_checkpoints_get_newer(tmp_path):
    executor = Broken(2 * TRIES, moves=TRIES + 2, folder=tmp_path / "scratch")
    assert len(list(subject(tmp_path, executor).answers(coded, QUESTIONS[:1]))) == 1


def test_an_executor_that_takes_nothing_is_one_error(tmp_path):
    executor = ProcessPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(
        UnsupportedError, match="no executor takes work: RuntimeError: cannot schedule new futures"
    ):
        list(subject(tmp_path, executor).answers(coded, QUESTIONS))


def test_a_worker_whose_results_would_differ_says_why(tmp_path):
    given = subject(tmp_path)
    unit = next(iter(given._units(["a", "b"], {"key": QUESTIONS[0]}).values()))
    other = msgspec.structs.replace(
        msgspec.msgpack.decode(unit, type=Unit), world={"numpy": "0.1"}, models=()
    )
    with pytest.raises(ConfigError, match=r"\S+: a worker has another one: got .*, expected None\nhint: all"):
        work(coded, msgspec.msgpack.encode(other), task())


def test_what_another_process_stores_may_come_late(tmp_path):
    store, key = Store(tmp_path), key_of("late")
    later = Timer(0.3, store.put, (key, b"content"))
    later.start()
    assert found(store, key) == b"content"
    later.join()


def test_what_an_answer_did_not_change_is_shared_with_the_first_model(tmp_path):
    given = subject(tmp_path)
    made = next(given.answers(coded, QUESTIONS))
    assert made.tensors["2.weight"] is given.model.tensors["2.weight"]
    assert not equal_bits(made.tensors["0.weight"], given.model.tensors["0.weight"])


def test_the_largest_cost_begins_first_and_answers_keep_the_order_of_the_questions(tmp_path):
    made = list(subject(tmp_path, Here()).answers(coded, QUESTIONS))
    assert asked(tmp_path) == ["4", "8", "2"]
    assert [next(iter(model.weights.values())).format.bits for model in made] == [2, 4, 8]


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
    made = list(Context().answers(read, task(), [student], names))
    assert made == [student.tensors[name].detach().numpy().tobytes() for name in names]
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
    workspace = Workspace(task())
    question = msgspec.Raw(msgspec.msgpack.encode("question"))
    unit = Unit(str(tmp_path / "elsewhere"), ("model",), 0, 1, world(workspace), "", "key", question)
    with pytest.raises(ConfigError, match="the store does not hold what a unit of work needs"):
        work(read, msgspec.msgpack.encode(unit), task())


def large(subject: Subject, question: int) -> bytes:
    """Bytes that fill a small disk."""
    return bytes(question)


def test_two_drivers_on_one_store_lose_nothing(tmp_path, processes):
    alone = [model.hash for model in subject(tmp_path / "alone").answers(coded, QUESTIONS)]

    def driver(given):
        return [model.hash for model in given.answers(coded, QUESTIONS)]

    with ThreadPoolExecutor(2) as drivers:
        both = [drivers.submit(driver, subject(tmp_path / "one", processes)) for _ in range(2)]
        assert [driver.result() for driver in both] == [alone, alone]
    assert not list(tmp_path.rglob("*.part"))


class Remote(Store):
    """A store as a client of a network sees it: slow, and entries show half a second after they were written."""

    def get(self, key):
        time.sleep(0.02)
        with suppress(FileNotFoundError):
            if time.time() - self._path(key).stat().st_mtime < 0.5:
                return None
        return super().get(key)


def test_a_store_in_a_slow_folder_loses_nothing(tmp_path, processes):
    alone = [model.hash for model in subject(tmp_path / "alone").answers(coded, QUESTIONS)]
    for executor in (processes, None):
        given = subject(tmp_path / f"far {executor}", executor)
        given = replace(given, workspace=replace(given.workspace, store=Remote(given.workspace.store.folder)))
        assert [model.hash for model in given.answers(coded, QUESTIONS)] == alone
        assert len(asked(given.workspace.store.folder)) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 256 kB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(small_disk, processes):
    for executor in (None, processes):
        with pytest.raises(WriteError, match="cannot be written: No space left on device") as caught:
            list(subject(small_disk, executor).answers(large, [1000, 300_000]))
        assert caught.value.errno == 28
        assert not list(small_disk.rglob("*.part"))
        kept = [path.stat().st_size for path in small_disk.rglob("*") if path.is_file()]
        assert 32 + 3 + 1000 in kept, "the first answer is there, and whole"
    subprocess.run(["mount", "-o", "remount,size=2m", small_disk], check=True)
    assert [len(answer) for answer in subject(small_disk).answers(large, [1000, 300_000])] == [1000, 300_000]
