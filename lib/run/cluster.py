"""Calls carried out by Dask workers: processes of this machine, or any cluster by its scheduler's address.

Results travel to the client, which alone writes records: no disk is shared.
"""

import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable

import dask
from distributed import Client, KilledWorker, Nanny, Scheduler, SpecCluster, as_completed
from distributed.comm import get_address_host_port

from lib.run import records
from lib.run.calls import Call, check_code, reason

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PAUSE = 0.05  # seconds: fetching a handful of results costs no more than fetching one
PATIENCE = "60s"  # for a scheduler that is away
OTHER_PLACES = ("inproc://", "ucx://", "ws://", "wss://")  # which Dask reaches without a host and a port


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
    the one that takes its place. Raises ValueError where the scheduler's address is none, where local workers can't
    start or where no worker offers the resources, OSError where there is no scheduler.
    """
    if scheduler:
        _check_address(scheduler)
    with contextlib.nullcontext(scheduler) if scheduler else local(workers, resources, retries) as address:
        suspects = []
        for one, outcome in _all(address, wanted, resources, retries):
            if isinstance(outcome, KilledWorker):
                suspects.append(one)
            else:
                done(one, outcome)
        for suspect in suspects:  # once more, alone: Dask blames whatever was waiting in a worker that died
            for one, outcome in _all(address, [suspect], resources, retries):
                done(one, reason(outcome) if isinstance(outcome, KilledWorker) else outcome)


def work(wanted: Call, command: str) -> bytes | str:
    """On a worker: the record of a call, its own if it has one; or what went wrong."""
    try:
        check_code(wanted)
        return records.read(wanted) or records.compute(wanted, command)
    except (Exception, SystemExit) as error:  # whatever a task raises is reported by name at the end
        return reason(error)


def _all(address, wanted, resources, retries):
    """Pairs of call and outcome, whatever becomes of the scheduler."""
    left, lost = {one.key: one for one in wanted}, 0
    while left:
        before = len(left)
        with _client(address) as client:
            _check_resources(client, resources)
            for key, outcome in _outcomes(client, list(left.values()), resources):
                yield left.pop(key), outcome
        lost = lost + 1 if len(left) == before else 0
        if lost > retries:
            raise OSError(f"the scheduler at {address} was lost {lost} times in a row: start it again, then this")


def _outcomes(client, wanted, resources):
    """Pairs of key and outcome as they come; ends early when the scheduler is lost."""
    # The same key in two sweeps is the same task: what both want is carried out once.
    keys = {f"{str(one).partition('(')[0]}-{one.key}": one.key for one in wanted}
    futures = client.map(work, wanted, command=records.command(), key=list(keys), resources=resources)
    waiting = as_completed(futures, loop=client.loop)
    del futures  # the scheduler forgets a result once it is here
    for batch in waiting.batches():
        for future in batch:
            if future.status == "error":
                error = future.exception()
                yield keys[future.key], error if isinstance(error, KilledWorker) else reason(error)
        finished = {future.key: future for future in batch if future.status == "finished"}
        try:
            results = client.gather(finished, errors="skip")
        except OSError:
            continue  # lost with the scheduler: left for the next round
        yield from ((keys[key], outcome) for key, outcome in results.items())
        time.sleep(PAUSE)


def _check_address(address):
    if not address.startswith(OTHER_PLACES):
        try:
            get_address_host_port(address)
        except ValueError as error:
            raise ValueError(
                f"{address!r} is no scheduler ({error}): expected a place as in tcp://head:8786"
            ) from error


@contextlib.contextmanager
def _client(address):
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except OSError as error:
        raise OSError(f"no Dask scheduler answers at {address}: start one there, or correct SCHEDULER") from error
    with client:
        yield client


@contextlib.contextmanager
def local(workers: int, resources: dict | None = None, retries: int = 3):
    """Address of a scheduler with worker processes on this machine, which share its threads and end with the block.

    With resources={"GPU": 1} each worker sees one GPU; raises ValueError where there are fewer, or where the workers
    don't start.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself asks
        sys.exit(1)  # a worker that reads a script which starts workers: the script's own process says so
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    cards = _cards(workers) if resources and "GPU" in resources else [{}] * workers
    options = {
        "nthreads": 1,
        "memory_limit": 0,  # tasks differ in size: what one does not need another may
        "resources": resources,
        "silence_logs": logging.CRITICAL,  # a death is retried, then reported by name
    }
    nannies = [{**options, "env": dict.fromkeys(THREADS, threads) | card} for card in cards]
    settings = {
        "distributed.scheduler.allowed-failures": retries,
        "distributed.worker.profile.enabled": False,  # it looks at each worker a hundred times a second
        # Dask's makes malloc give every temporary back at once: a training spent a third of its time in page faults.
        "distributed.nanny.pre-spawn-environ": {},
    }
    with dask.config.set(settings):
        try:
            cluster = SpecCluster(
                workers={number: {"cls": Nanny, "options": each} for number, each in enumerate(nannies)},
                scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": ":0"}},
                silence_logs=logging.CRITICAL,
            )
        except RuntimeError as error:
            raise ValueError(
                f"the workers did not start ({str(error).rstrip('.')}): a script that asks for workers is read by each "
                'of them, so put what it does under `if __name__ == "__main__":`'
            ) from None
        with cluster:
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
