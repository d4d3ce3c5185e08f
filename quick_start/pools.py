"""Workers for :func:`quick_start.train`: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor

from settings import SettingsError

SECONDS_TO_ANSWER = 10  # for a cluster's scheduler


def process_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """Processes of this machine that train one run each, for ``train(config, executor=...)``.

    ``with process_pool() as executor:`` ends them in the end. On CPUs each process has its share of
    the cores, and all of them together need so many times the memory of a run. In a script, call
    this below ``if __name__ == "__main__":``, for each process imports the script.

    Parameters
    ----------
    workers : how many, 1 or more; None is one for each GPU, or without GPUs for each core.

    Raises
    ------
    SettingsError
        Where ``workers`` is no number from 1 up.
    """
    from quick_start.sweep.work import obey_parent

    workers = _checked(workers)
    # Not forked: neither CUDA nor the threads of compiled kernels outlive that.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=obey_parent)


@contextlib.contextmanager
def cluster(address: str | None = None, *, workers: int | None = None) -> Iterator[Executor]:
    """A Dask cluster, for ``train(config, executor=...)``: ``with cluster() as executor: ...``.

    Parameters
    ----------
    address : of a cluster's scheduler, such as ``tcp://10.0.0.5:8786``. Its workers must have
        Splatbook installed, and see the folders of pictures and results under the same paths. None
        starts a cluster on this machine, and ends it with the block.
    workers : of a cluster on this machine, as for :func:`process_pool`.

    Raises
    ------
    SettingsError
        Where Dask is not installed, nothing answers at the address, or ``workers`` is no number
        from 1 up.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise SettingsError(
            f"cluster() needs Dask ({error}). Install it: pip install distributed."
        ) from error
    workers = _checked(workers)
    with contextlib.ExitStack() as stack:
        if address is None:
            address = stack.enter_context(
                # One run at a time for each worker, whatever threads its kernels use.
                LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
            )
        try:
            client = stack.enter_context(Client(address, timeout=SECONDS_TO_ANSWER))
        except OSError as error:
            raise SettingsError(
                f"cluster({address!r}): no scheduler answers there ({error}). Check the address, "
                "and that the scheduler runs."
            ) from error
        yield stack.enter_context(client.get_executor())


def _checked(workers: int | None) -> int:
    """The number of workers that is meant."""
    if workers is None:
        import torch

        return torch.cuda.device_count() or os.cpu_count() or 1
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise SettingsError(f"workers: found {workers!r}; allowed are whole numbers from 1 up.")
    return workers
