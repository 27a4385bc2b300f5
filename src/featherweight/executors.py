"""Executors by name: processes of this machine, or a Dask cluster. What dies in them is replaced at the next call."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    InvalidStateError,
    ThreadPoolExecutor,
)
from contextlib import suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from featherweight.errors import ConfigError, extras

T = TypeVar("T")
DASK = "dask://"
CONNECTING = 30  # seconds that a scheduler has to answer
CLOSING = 5  # seconds that a lost connection has to end
LOOK = 1  # seconds between looks whether a connection stands


def executor_of(text: str) -> Executor:
    """Return the executor that a text names: `processes:N`, or `dask://HOST:PORT` (a scheduler of Dask).

    >>> with executor_of("processes:2") as executor:
    ...     list(executor.map(abs, [-1, 2, -3]))
    [1, 2, 3]

    Raises:
        ConfigError: it names none, or no scheduler answers there.
        MissingExtraError: Dask is not installed.
    """
    kind, _, count = text.partition(":")
    if kind == "processes" and count.isdecimal() and int(count) > 0:
        return Processes(int(count))
    if text.startswith(DASK) and text[-1].isdecimal():
        return Dask(text)
    raise ConfigError("not an executor", got=repr(text), expected=f"processes:N or {DASK}HOST:PORT")


def lost(error: BaseException) -> bool:
    """Return whether an error tells of a worker or a connection that was lost, and not of the work itself."""
    kinds = (BrokenExecutor, CancelledError, EOFError, OSError)
    return isinstance(error, kinds) or type(error).__name__ in (
        "KilledWorker",
        "NoValidWorkerError",
    )  # of Dask


class Processes(Executor):
    """Processes of this machine, started afresh (not forked). One that dies costs its call, and is replaced.

    A pool of `concurrent.futures` ends all its processes when one dies. These end when the process that made them
    does, however it ends.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._threads = ThreadPoolExecutor(count)  # each has a process of its own
        self._workers = dict[int, Worker]()

    @property
    def workers(self) -> list[int]:
        """The numbers of the processes that there are now."""
        return [worker.process.pid or 0 for worker in list(self._workers.values())]

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Return the future of a call in one of the processes; `BrokenExecutor` if that dies."""
        return self._threads.submit(self._run, function, args, kwargs)

    def _run(self, *call: Any) -> Any:
        thread = threading.get_ident()
        if thread not in self._workers or not self._workers[thread].process.is_alive():
            self._workers[thread] = Worker()
        return self._workers[thread].run(call)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, after their calls if `wait` is true."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures or not wait)
        for worker in list(self._workers.values()):
            worker.process.terminate()
            worker.process.join()

    def __exit__(self, kind: Any, *_: object) -> None:
        """End the processes: after an error, or Ctrl-C, at once."""
        self.shutdown(wait=kind is None)


class Worker:
    """A process that runs one call after another."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, call: tuple[Any, ...]) -> Any:
        """Return what a call of a function with arguments and keywords returns, or raise what it raises.

        Raises:
            BrokenExecutor: the process died.
        """
        try:
            self.pipe.send(call)
            error, result = self.pipe.recv()
        except (EOFError, ConnectionError) as lost:
            self.process.join()
            code = self.process.exitcode
            raise BrokenExecutor(f"a worker process died: exit code {code}") from lost
        if error is not None:
            raise error
        return result


def serve(pipe: Connection) -> None:
    """Run the calls that come through a pipe, until it or the process that started this one ends."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started this process
    while True:
        try:
            function, args, kwargs = pipe.recv()
            pipe.send((None, function(*args, **kwargs)))
        except (EOFError, ConnectionError):
            return
        except Exception as error:
            pipe.send((error, None))


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


class Dask(Executor):
    """The workers of a scheduler of `dask.distributed`; a lost connection is made again at the next call.

    Args:
        address: `dask://HOST:PORT`.

    Raises:
        ConfigError: no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        self._address, self._lock, self._ended = address, threading.Lock(), threading.Event()
        self._waiting = set[Future[Any]]()
        try:
            self._client = self._connected()
        except OSError as error:
            hint = "`featherweight cluster` starts one"
            raise ConfigError("no scheduler answers", where=address, hint=hint) from error
        threading.Thread(target=self._watch, daemon=True).start()

    def _connected(self) -> Any:
        with extras():
            from distributed import Client

        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # of a loss its futures tell
        return Client(f"tcp://{self._address.removeprefix(DASK)}", timeout=CONNECTING, set_as_default=False)

    def _lost(self) -> bool:
        comm = self._client.scheduler_comm
        return self._client.status != "running" or comm is None or comm.comm.closed()

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Return the future of a call by one of the workers; `ConnectionError` if the scheduler is lost meanwhile.

        Raises:
            OSError: no scheduler answers.
        """
        with self._lock:
            if self._lost():
                self._give_up()
                with suppress(Exception):
                    self._client.close(timeout=CLOSING)
                self._client = self._connected()
            submitted = self._client.get_executor(pure=False).submit(function, *args, **kwargs)
            future = Future[T]()
            self._waiting.add(future)
        future.add_done_callback(lambda future: future.cancelled() and submitted.cancel())
        submitted.add_done_callback(partial(self._settle, future))
        return future

    def _settle(self, future: Future[Any], submitted: Future[Any]) -> None:
        """Let a future have the outcome of the one that Dask made, which is not sure to have any."""
        self._waiting.discard(future)
        with suppress(InvalidStateError):
            if submitted.cancelled():
                future.set_exception(ConnectionError("the scheduler was lost"))
            elif (error := submitted.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(submitted.result())

    def _give_up(self) -> None:
        while self._waiting:
            with suppress(InvalidStateError):
                self._waiting.pop().set_exception(ConnectionError("the scheduler was lost"))

    def _watch(self) -> None:
        while not self._ended.wait(LOOK):
            with self._lock:
                if self._lost():
                    self._give_up()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster; its workers go on with what they do, if nobody waits."""
        if wait:
            futures.wait(list(self._waiting))
        self._ended.set()
        self._client.close()
