"""A run on two processes, whose workers and whose driver are killed at random moments, ends with undisturbed bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
WORKERS, DRIVERS = 20, 5  # that are killed


def work(store: str, out: str, executor: str) -> None:
    from tiny_task import blobs

    from featherweight import Int, Recipe, Store, run
    from featherweight.artifact import write
    from featherweight.executors import executor_of
    from featherweight.packing import pack
    from featherweight.techniques import Stages
    from featherweight.training.methods import Adaround

    recipe = Recipe([
        Stages(by="layer", inputs="float", format=Int(bits=3), method=Adaround(), samples=512, batch=16, epochs=epochs)
        for epochs in (12, 13, 14)
    ])  # fmt: skip
    with executor_of(executor) as place:
        made = run(recipe, blobs(), threads=1, store=Store(store), executor=place)
    write(out, pack(made[-1].model))


def driver(folder: Path, name: str, executor: str) -> subprocess.Popen:
    path = os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])
    command = [sys.executable, str(HERE), str(folder / name), str(folder / f"{name}.fw"), executor]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path})


def workers(process: subprocess.Popen) -> list[int]:
    """The processes that a driver has started, of which Python's own bookkeeper is none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_kills_of_workers_and_drivers_leave_no_trace(tmp_path):
    began = time.monotonic()
    calm = driver(tmp_path, "calm", "processes:1")
    while not list((tmp_path / "calm").glob("??/*")):
        time.sleep(0.01)
    first = time.monotonic() - began  # what a start and an answer take
    assert calm.wait() == 0
    moments = random.Random(0)
    kills = moments.sample(["worker"] * WORKERS + ["driver"] * DRIVERS, WORKERS + DRIVERS)
    process, landed = driver(tmp_path, "wild", "processes:2"), {"worker": 0, "driver": 0}
    for kill in kills:
        end = time.monotonic() + moments.uniform(0, first)
        while time.monotonic() < end or not (kill == "driver" or workers(process)):
            time.sleep(0.01)
            if process.poll() is not None:  # it came to its end between two kills
                assert process.returncode == 0
                shutil.rmtree(tmp_path / "wild")
                process = driver(tmp_path, "wild", "processes:2")
        landed[kill] += 1
        if kill == "driver":
            process.kill()
            process.wait()
            process = driver(tmp_path, "wild", "processes:2")
        else:
            os.kill(moments.choice(workers(process)), signal.SIGKILL)
    assert process.wait() == 0
    print(f"{landed}, {time.monotonic() - began:.0f} s")
    assert (tmp_path / "wild.fw").read_bytes() == (tmp_path / "calm.fw").read_bytes()


if __name__ == "__main__":
    work(*sys.argv[1:])
