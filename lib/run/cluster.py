"""Calls carried out by Dask workers: processes of this machine, or any cluster by its scheduler's address.

Results travel to the client, which alone writes records: no disk is shared.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster, as_completed

from lib.run import records
from lib.run.calls import Call, check_code, reason

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = "60s"  # for a scheduler that is away


def carry_out(
    wanted: Iterable[Call],
    done: Callable[[Call, bytes | str], None],
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    resources: dict | None = None,
    retries: int = 3,
) -> None:
    """Carry out calls, done(call, record or error) for each as it ends, in this process.

    A worker's death puts its task back, up to `retries` times; when the scheduler is lost, what is left is given to
    the one that takes its place. Raises ValueError where no worker offers the resources, OSError where there is no
    scheduler.
    """
    left = {wanted_one.key: wanted_one for wanted_one in wanted}
    lost = 0  # rounds in a row that brought nothing
    with _address(scheduler, workers, resources, retries) as address:
        while left:
            before = len(left)
            with _client(address) as client:
                _check_resources(client, resources)
                for key, outcome in _outcomes(client, left.values(), resources):
                    done(left.pop(key), outcome)
            lost = lost + 1 if len(left) == before else 0
            if lost > retries:
                raise OSError(f"the scheduler at {address} was lost {lost} times in a row: start it again, then this")


def work(wanted: Call, command: str) -> bytes | str:
    """On a worker: the record of a call, its own if it has one; or what went wrong."""
    try:
        check_code(wanted)
        return records.read(wanted) or records.compute(wanted, command)
    except Exception as error:  # whatever a task raises is reported by name at the end
        return reason(error)


def _outcomes(client, wanted, resources):
    """Pairs of key and outcome as they come; ends early when the scheduler is lost."""
    wanted = list(wanted)
    names = [f"{call.function.rpartition('.')[2].replace(':', '.')}-{call.key}" for call in wanted]
    # The same key in two sweeps is the same task: what both want is carried out once.
    futures = client.map(work, wanted, command=records.command(), key=names, resources=resources)
    keys = dict(zip(names, (call.key for call in wanted), strict=True))
    waiting = as_completed(futures, loop=client.loop)
    del futures  # the scheduler forgets a result once it is here
    for batch in waiting.batches():
        failed = [future for future in batch if future.status == "error"]
        yield from ((keys[future.key], _infrastructure(future)) for future in failed)
        finished = {future.key: future for future in batch if future.status == "finished"}
        try:
            results = client.gather(finished, errors="skip")
        except OSError:
            continue  # lost with the scheduler: left for the next round
        yield from ((keys[key], outcome) for key, outcome in results.items())


def _infrastructure(future):
    """What went wrong outside the task itself: its workers died, or could not even import it."""
    error = future.exception()
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


@contextlib.contextmanager
def _client(address):
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except OSError as error:
        raise OSError(f"no Dask scheduler answers at {address}: start one there, or correct SCHEDULER") from error
    with client:
        yield client


@contextlib.contextmanager
def _address(scheduler, workers, resources, retries):
    """Address of the scheduler given, or of one with local workers for as long as they are needed."""
    if scheduler:
        yield scheduler
        return
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    cards = _cards(workers) if resources and "GPU" in resources else [{}] * workers
    with dask.config.set({"distributed.scheduler.allowed-failures": retries}):
        with SpecCluster(
            workers={
                number: {
                    "cls": Nanny,
                    "options": {
                        "nthreads": 1,
                        "memory_limit": 0,  # tasks differ in size: what one does not need another may
                        "resources": resources,
                        "silence_logs": logging.CRITICAL,  # a death is retried, then reported by name
                        "env": dict.fromkeys(THREADS, threads) | card,
                    },
                }
                for number, card in enumerate(cards)
            },
            scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard": False}},
            silence_logs=logging.CRITICAL,
        ) as cluster:
            yield cluster.scheduler_address


def _cards(workers):
    """Environments that show each local worker a GPU of its own."""
    import torch

    if torch.cuda.device_count() < workers:
        raise ValueError(
            f"{workers} workers with a GPU each need as many GPUs, and here are {torch.cuda.device_count()}: "
            "ask for fewer workers, or for device=cpu"
        )
    return [{"CUDA_VISIBLE_DEVICES": str(number)} for number in range(workers)]


def _check_resources(client, resources):
    offers = [worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values()]
    for name, amount in (resources or {}).items():
        if offers and max(offer.get(name, 0) for offer in offers) < amount:
            raise ValueError(
                f"no worker of {client.scheduler.address} offers {name}={amount}: "
                f"start them with --resources '{name}={amount}'"
            )
