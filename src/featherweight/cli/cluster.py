"""The command that starts a cluster of Dask: a scheduler and workers here, or workers for a scheduler elsewhere."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from typing import Annotated

import typer

from featherweight.cli.output import say
from featherweight.errors import ConfigError
from featherweight.executors import DASK

AGAIN = 1.0  # seconds after which a worker that lost its scheduler looks for it again
# Of Dask, here and in the workers: few lines, and work whose worker died, or that finds none, is given back.
SETTINGS = {
    "DASK_LOGGING__DISTRIBUTED": "error",
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    "DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT": "1 minute",
}


def cluster(
    workers: Annotated[int, typer.Option("--workers", "-w", help="Worker processes.", min=1)] = 2,
    host: Annotated[str, typer.Option(help="By which address other machines reach this one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Of the scheduler; 0: any that is free.", min=0)] = 8786,
    join: Annotated[
        str | None, typer.Option(help="dask://HOST:PORT of a scheduler elsewhere: start workers alone.")
    ] = None,
) -> None:
    """Start a cluster that --executor dask://HOST:PORT works on: a scheduler and workers. Ctrl-C ends it.

    Whoever reaches the port can run code here: open it in a network that you trust, and nowhere else.
    """
    if join is not None and not (join.startswith(DASK) and join[-1].isdecimal()):
        raise ConfigError("not a scheduler", where="--join", got=repr(join), expected=f"{DASK}HOST:PORT")
    os.environ.update(SETTINGS)
    with suppress(asyncio.CancelledError):
        asyncio.run(_run(workers, host, port, join))


async def _run(workers: int, host: str, port: int, join: str | None) -> None:
    from distributed import Scheduler

    this = asyncio.current_task()
    assert this is not None
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, this.cancel)
    if join is not None:
        say(f"{workers} workers for {join}; Ctrl-C ends them")
        await _work(workers, join.removeprefix(DASK))
        return
    try:
        scheduler = await Scheduler(host=host, port=port, dashboard=False)
    except OSError as error:
        raise ConfigError("no scheduler can start", where=f"{host}:{port}", got=error) from error
    async with scheduler:
        address = scheduler.address.removeprefix("tcp://")
        say(f"--executor {DASK}{address}\n{workers} workers; Ctrl-C ends them")
        await _work(workers, address)


async def _work(workers: int, address: str) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(_worker(address))


async def _worker(address: str) -> None:
    """Keep one worker process at work, of one thread, whatever becomes of it and of the scheduler."""
    from distributed import Nanny

    while True:
        with suppress(OSError, asyncio.TimeoutError):
            async with Nanny(f"tcp://{address}", nthreads=1, memory_limit=0, worker_port=0) as nanny:
                await nanny.finished()
        await asyncio.sleep(AGAIN)
