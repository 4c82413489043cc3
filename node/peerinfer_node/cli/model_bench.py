"""`peerinfer bench MODEL`: how fast each device runs one model, by the rows joined in a run, and what it would choose."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import trio

from peerinfer.batch_size import DID_NOT_FIT, BatchSize
from peerinfer.config import NodeConfig
from peerinfer.control import Json
from peerinfer.errors import ExecutionError, InputError, ModelRefused
from peerinfer.ids import Cid, cid_of
from peerinfer.limits import MIB
from peerinfer.tensors import FREE, TensorSpec, dtype_name
from peerinfer_node.clock import SystemClock
from peerinfer_node.devices.lent import lend
from peerinfer_node.devices.probe import find_gpus
from peerinfer_node.inference.samples import Arrays, samples
from peerinfer_node.log import Log
from peerinfer_node.memory_store import MemoryStore
from peerinfer_node.ports import Batch, Executor, ModelInterface

BATCH_BYTES = 64 * MIB
BATCH_ROWS_MAX = 512
MEASURE_SECONDS_MAX = 20.0
BATCHES_WITHOUT_NEWS_MAX = 6
"""Five pairs of runs decide on a size; a small batch holds one pair."""

"""Per device. A slow one has told enough by then."""

RUN_TIMEOUT_S = 60.0
_SEED = 7


async def measure_model(path: Path, config: NodeConfig) -> list[Json]:
    """One object for each device that may be used. Raises `InputError` if the file cannot be read."""
    try:
        data = await trio.Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    gpus = await trio.to_thread.run_sync(find_gpus)
    devices = lend(config, gpus, MemoryStore(), SystemClock(), Log(lambda line: None))
    executors = devices.executors if devices.lends_processor else devices.executors[1:]
    found = []
    try:
        for executor in executors:
            found.append(await _measured(executor, data))
    except ModelRefused as error:
        raise ModelRefused(f"{path}: {error}") from None
    finally:
        for executor in devices.executors:
            with trio.CancelScope(shield=True):
                await executor.close()
    return found


async def _measured(executor: Executor, data: bytes) -> Json:
    answer: Json = {"device": executor.device.name, "provider": executor.device.provider, "runs": [], "best_rows": None}
    model = cid_of(data)
    try:
        interface = await executor.load(model, data)
        answer["load_s"] = interface.load_s
        inputs = next(samples(interface.inputs, _SEED), None)
        if inputs is None:
            return {**answer, "problem": "its inputs are too large to be made up"}
        rows = _rows(interface, inputs)
        batch = _batch(inputs, rows)
        known, without_news = executor.measures(model), 0
        with trio.move_on_after(MEASURE_SECONDS_MAX):
            while without_news < BATCHES_WITHOUT_NEWS_MAX and not BatchSize(known).is_settled(_row_bytes(inputs)):
                result = await executor.run(model, batch, RUN_TIMEOUT_S)
                if result.failures:
                    return {**answer, "problem": result.failures[0][2]}
                if rows == 1:
                    return {**answer, "runs": [_run(1, result.compute_s)], "best_rows": 1}
                without_news = without_news + 1 if executor.measures(model) == known else 0
                known = executor.measures(model)
        return {**answer, **_picture(executor, model, inputs)}
    except ExecutionError as error:
        return {**answer, "problem": str(error)}


def _rows(interface: ModelInterface, inputs: Arrays) -> int:
    """How many to hand over at once: one for a model that takes no several."""
    with_axis = [port for port in interface.inputs if port.shape]
    if not with_axis or any(port.shape[0] != FREE for port in with_axis):
        return 1
    row_bytes = _row_bytes(inputs)
    return max(8, min(BATCH_ROWS_MAX, BATCH_BYTES // max(1, row_bytes)))


def _row_bytes(inputs: Arrays) -> int:
    return sum(array.itemsize * math.prod(array.shape[1:]) for array in inputs.values() if array.ndim)


def _batch(inputs: Arrays, rows: int) -> Batch:
    arrays = {}
    for name, array in inputs.items():
        if rows > 1 and array.ndim:
            arrays[name] = np.ascontiguousarray(np.broadcast_to(array[:1], (rows, *array.shape[1:])))
        else:
            arrays[name] = array[np.newaxis] if array.ndim else array
    tensors = tuple(TensorSpec(name, dtype_name(array.dtype), array.shape) for name, array in arrays.items())
    body = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays.values()]
    return Batch((1,) * rows, tensors, body, merge=rows > 1)


def _picture(executor: Executor, model: Cid, inputs: Arrays) -> Json:
    measures = executor.measures(model)
    timed = [measure for measure in measures if measure.run_s != DID_NOT_FIT]
    return {
        "runs": [_run(measure.rows, measure.run_s) for measure in sorted(timed, key=lambda one: one.rows)],
        "did_not_fit": [measure.rows for measure in measures if measure.run_s == DID_NOT_FIT],
        "best_rows": BatchSize(measures).best(_row_bytes(inputs)),
    }


def _run(rows: int, run_s: float) -> Json:
    return {"rows": rows, "run_s": run_s, "items_per_second": rows / max(run_s, 1e-9)}
