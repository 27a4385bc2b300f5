"""Executors by name: what dies is replaced and costs its own work alone; processes end with what started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from featherweight.errors import ConfigError
from featherweight.executors import Processes, executor_of, lost


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def gone(pid: int, seconds: float = 20) -> bool:
    """Whether a process ends in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":  # nobody waits for it
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "text", ["", "processes", "processes:0", "processes:x", "dask://", "dask://host", "threads:2"]
)
def test_a_text_that_names_no_executor_is_one_error(text):
    with pytest.raises(
        ConfigError, match=r"not an executor: got '.*', expected processes:N or dask://HOST:PORT"
    ):
        executor_of(text)


def test_a_process_that_is_killed_costs_its_call_alone_and_is_replaced():
    with executor_of("processes:2") as executor:
        slow, killed = executor.submit(time.sleep, 1.5), executor.submit(die, 0)
        with pytest.raises(Exception, match="a worker process died: exit code -9") as caught:
            killed.result()
        assert lost(caught.value)
        assert executor.submit(os.getpid).result() != os.getpid()
        assert slow.result() is None


def test_calls_are_independent_of_errors_before_them():
    with executor_of("processes:1") as executor:
        first = executor.submit(os.getpid).result()
        with pytest.raises(ZeroDivisionError) as caught:
            executor.submit(divmod, 1, 0).result()
        assert not lost(caught.value)
        with pytest.raises(Exception, match="pickle"):
            executor.submit(lambda: 0).result()
        assert executor.submit(os.getpid).result() == first


def test_processes_end_at_once_after_an_error_and_in_the_end():
    start = time.monotonic()
    with pytest.raises(KeyError), Processes(1) as executor:
        first = executor.submit(os.getpid).result()
        executor.submit(time.sleep, 60)
        raise KeyError
    assert gone(first) and time.monotonic() - start < 30
    with Processes(1) as executor:
        second, last = executor.submit(os.getpid).result(), executor.submit(time.sleep, 0.2)
    assert last.done() and gone(second)


def test_processes_end_when_the_one_that_started_them_is_killed():
    code = (
        "import os, time\nfrom featherweight.executors import Processes\n"
        "if __name__ == '__main__':\n"
        "    executor = Processes(1)\n"
        "    print(executor.submit(os.getpid).result(), flush=True)\n"
        "    executor.submit(time.sleep, 60).result()\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert gone(worker)
