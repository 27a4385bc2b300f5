"""A run that is killed at random moments and started again ends with the bytes of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
RECIPE = """
[[steps]]
step = "train"
epochs = 12
lr = 0.05

[[steps]]
step = "fold"

[[steps]]
step = "finetune"
where = "0.weight"
format = { format = "clustered", bits = 3 }
method = { method = "centroids" }
coder = { coder = "huffman" }
epochs = 8

[[steps]]
step = "finetune"
where = "!0.weight"
format = { format = "int", bits = 4 }
method = { method = "project", every = 7 }
epochs = 8
"""


def work(store: str, out: str) -> None:
    from tiny_task import given

    from featherweight.artifact import write
    from featherweight.packing import pack
    from featherweight.recipe import Store, parse_recipe, run

    made = run(parse_recipe(RECIPE), given(), seed=3, threads=1, store=Store(store))
    write(out, pack(made[-1].model, facts={"recipe": RECIPE}))


def main(folder: Path, kills: int) -> None:
    """Run in a process that has everything imported, so that children start at once."""
    import tiny_task  # noqa: F401
    import torch

    import featherweight.search  # noqa: F401

    torch.set_num_threads(1)
    started = time.perf_counter()
    work(str(folder / "calm"), str(folder / "calm.fw"))
    seconds = time.perf_counter() - started
    moments, landed = random.Random(5), 0
    for _ in range(kills):
        child = os.fork()
        if child == 0:
            work(str(folder / "wild"), str(folder / "wild.fw"))
            os._exit(0)
        time.sleep(moments.uniform(0, 0.6 * seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        landed += os.WIFSIGNALED(status)
        # Forget the finished steps now and then, so that late kills meet unfinished work too.
        if (folder / "wild.fw").exists():
            (folder / "wild.fw").unlink()
            for entry in (folder / "wild").glob("??/*"):
                entry.unlink()
    work(str(folder / "wild"), str(folder / "wild.fw"))
    print(f"{landed} kills landed, a calm run takes {seconds:.2f} s")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_leave_no_trace(tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE), str(tmp_path)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert done.returncode == 0, done.stderr
    landed = int(done.stdout.split()[0])
    assert landed >= 12, done.stdout
    assert (tmp_path / "wild.fw").read_bytes() == (tmp_path / "calm.fw").read_bytes()


if __name__ == "__main__":
    main(Path(sys.argv[1]), kills=20)
