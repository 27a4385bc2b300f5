"""A run that is killed at random points of its work and started again ends with the bytes of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).resolve()
RECIPE = """
[[steps]]
step = "train"
epochs = 3
lr = 0.05

[[steps]]
step = "fold"

[[steps]]
step = "finetune"
where = "0.weight"
format = { format = "clustered", bits = 3 }
method = { method = "centroids" }
coder = { coder = "huffman" }
epochs = 2

[[steps]]
step = "finetune"
where = "!0.weight"
format = { format = "int", bits = 4 }
method = { method = "project", every = 7 }
epochs = 2
"""


def work(store: str, out: str) -> None:
    from tiny_task import given

    from featherweight.artifact import write
    from featherweight.packing import pack
    from featherweight.recipe import Store, parse_recipe, run

    made = run(parse_recipe(RECIPE), given(), seed=3, threads=1, store=Store(store))
    write(out, pack(made[-1].model, facts={"recipe": RECIPE}))


class Progress:
    """What a process has done, in steps of training and touches of files in a folder; before one of them it dies.

    It is the clock of training as well, which writes a checkpoint every 20 steps then.
    """

    done, last = 0, 0

    def tick(self) -> int:
        self.done += 1
        if self.done == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.done

    def watch(self, folder: Path) -> None:
        from featherweight.training import loop

        loop.time = SimpleNamespace(monotonic=self.tick)
        touches = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
        sys.addaudithook(
            lambda event, given: event in touches and str(folder) in str(given[0]) and bool(self.tick())
        )


def main(folder: Path, kills: int) -> None:
    """Run in a process that has everything imported, so that children start at once."""
    import tiny_task  # noqa: F401
    import torch

    import featherweight.search  # noqa: F401

    torch.set_num_threads(1)
    progress = Progress()
    progress.watch(folder)
    work(str(folder / "calm"), str(folder / "calm.fw"))
    whole, moments, landed = progress.done, random.Random(5), 0
    for _ in range(kills):
        last = moments.randint(1, whole * 6 // 10)
        child = os.fork()
        if child == 0:
            progress.done, progress.last = 0, last
            work(str(folder / "wild"), str(folder / "wild.fw"))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        landed += os.WIFSIGNALED(status)
        # Forget the finished steps now and then, so that late kills meet unfinished work too.
        if (folder / "wild.fw").exists():
            (folder / "wild.fw").unlink()
            for entry in (folder / "wild").glob("??/*"):
                entry.unlink()
    work(str(folder / "wild"), str(folder / "wild.fw"))
    print(f"{landed} kills landed; a calm run does {whole} things")


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
