"""Scores on the machines of a Ray cluster: the rows of the same scorer, in the same order.

Only `//serve:score_on_ray` carries Ray. The machines need Python 3.11 with the packages of its lock
and of the service, and see files by the same paths; this code and the model travel to them.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayError

import common
import serve
from serve.score.listing import StorageError
from serve.score.scorer import SCHEMA, ClusterError, Model, Scorer, groups

_POSITION = "position"  # of a row's path among all


class _Worker:
    """A scorer on one CPU of a machine."""

    def __init__(self, model: Any) -> None:
        self._scorer = Scorer(ray.get(model), 1)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows of groups of paths, each with its position."""
        tables = []
        for group in batch.to_pylist():
            table = self._scorer.table([os.fsdecode(path) for path in group["paths"]])
            places = np.arange(table.num_rows) + group[_POSITION]
            tables.append(table.append_column(_POSITION, pa.array(places, pa.int64())))
        return pa.concat_tables(tables)


def score_on_cluster(
    address: str,
    model: Model,
    paths: Sequence[str],
    ranges: Sequence[tuple[int, int]],
    batch_size: int,
) -> Generator[tuple[int, pa.Table]]:
    """Tables of rows with the position of their first path, in order, as `Scorer.score` has them.

    Args:
        address: of the cluster, as ``ray.init`` takes it: ``host:6379``, or ``auto``.
        ranges: positions in `paths`, from and up to.
        batch_size: files that a CPU of the cluster takes at a time.

    Raises:
        ClusterError: there is no such cluster, or it lost the work.
        StorageError: S3 does not answer.
    """
    work = [
        {_POSITION: start, "paths": [os.fsencode(path) for path in paths[start:end]]}
        for start, end in groups(ranges, batch_size)
    ]
    if not work:
        return
    _connect(address)
    try:
        yield from _scored(work, ray.put(model))
    except StorageError as exc:  # Ray's error is one, too, and has the worker's traceback
        raise StorageError(str(getattr(exc, "cause", exc))) from exc
    except RayError as exc:
        raise ClusterError(f"the cluster {address} lost the work: {exc}") from exc
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    code = [str(Path(next(iter(one.__path__))).absolute()) for one in (common, serve)]
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"py_modules": code, "env_vars": {"OMP_NUM_THREADS": "1"}},
        )
    except (OSError, RuntimeError, ValueError, RayError) as exc:
        raise ClusterError(f"no Ray cluster answers at {address}: {exc}") from exc
    signal.signal(signal.SIGTERM, before)  # Ray has put its own in its place


def _scored(work: Sequence[dict[str, Any]], model: Any) -> Iterator[tuple[int, pa.Table]]:
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.raise_original_map_exception = True
    # Not of Arrow's tables: their schema would be asked for by a task of the cluster for each.
    rows = ray.data.from_items(list(work), override_num_blocks=len(work)).map_batches(
        _Worker,
        fn_constructor_args=(model,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=max(1, int(ray.cluster_resources()["CPU"]))),
        num_cpus=1,
    )
    for table in rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        yield from _successive(table)


def _successive(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The table in pieces whose positions follow one another."""
    positions = table[_POSITION].to_numpy()
    rows = table.select(SCHEMA.names).cast(SCHEMA)
    cuts = [0, *(np.flatnonzero(np.diff(positions) != 1) + 1), len(positions)]
    for start, end in pairwise(cuts):
        yield int(positions[start]), rows.slice(start, end - start)
