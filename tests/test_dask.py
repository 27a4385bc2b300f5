"""Work on a Dask cluster: the bytes of work done here, by one worker and two, whatever dies on the way."""

import os
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import test_work
from test_work import QUESTIONS, Coded, coded, subject

from featherweight.errors import ConfigError
from featherweight.executors import executor_of
from featherweight.model import Model
from featherweight.work import Subject

pytest.importorskip("distributed", reason="the extra dask is not installed")


def waits_once(subject: Subject, question: Coded) -> Model:
    """As `coded`, but the first worker that is asked for 2 bits does not come to an end."""
    mark = subject.workspace.store.folder / "waits"
    if question.bits == 2 and not mark.exists():
        mark.touch()
        time.sleep(600)
    return coded(subject, question)


@contextmanager
def started(*options: str):
    """A cluster, and the address that it says."""
    command = [sys.executable, "-m", "featherweight", "cluster", *options]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    try:
        yield process, re.search(r"dask://\S+\d", process.stdout.readline()).group()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def cluster():
    with started("--workers", "1", "--port", "0") as (_, address):
        yield address


def hashes(folder, executor=None, ask=coded):
    return [model.hash for model in subject(folder, executor).answers(ask, QUESTIONS)]


def test_one_worker_and_two_answer_as_this_process_does(tmp_path, cluster):
    here = hashes(tmp_path / "here")
    with executor_of(cluster) as executor:
        assert hashes(tmp_path / "one", executor) == here
        with started("--workers", "1", "--join", cluster):
            executor._client.wait_for_workers(2)
            assert hashes(tmp_path / "two", executor) == here


def test_a_killed_worker_costs_its_unit_and_nothing_else(tmp_path, cluster):
    with executor_of(cluster) as executor:
        assert hashes(tmp_path / "apart", executor, test_work.dies_once) == hashes(tmp_path / "here")
    assert sorted(test_work.asked(tmp_path / "apart")) == ["2", "4", "8"]


def test_where_no_scheduler_answers_is_one_error(monkeypatch):
    monkeypatch.setattr("featherweight.executors.CONNECTING", 0.5)
    with pytest.raises(
        ConfigError, match=r"dask://127.0.0.1:1: no scheduler answers\nhint: `featherweight cl"
    ):
        executor_of("dask://127.0.0.1:1")


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_restarted_scheduler_costs_what_was_running(tmp_path, end):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        options = ("--workers", "1", "--port", str(taken.getsockname()[1]))
    with (
        started(*options) as (process, address),
        executor_of(address) as executor,
        ThreadPoolExecutor(1) as here,
    ):
        found = here.submit(hashes, tmp_path / "apart", executor, waits_once)
        while not (tmp_path / "apart" / "waits").exists():
            time.sleep(0.05)
        getattr(process, end)()
        process.wait()
        with started(*options):
            assert found.result() == hashes(tmp_path / "here")
    assert sorted(test_work.asked(tmp_path / "apart")) == ["2", "4", "8"]
