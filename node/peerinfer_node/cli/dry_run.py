"""run --dry-run: what a job would be, who could run it and how long that would take.

Nothing is sent to anybody. One task is tried on this machine's processor, which tells how long an item takes.
"""

from __future__ import annotations

import argparse
from typing import Any

import trio

from peerinfer.binding import quoted
from peerinfer.control import Control, JobRequest, Json
from peerinfer.errors import InputError, ModelRefused, PeerinferError
from peerinfer.limits import MODEL_BYTES_MAX
from peerinfer.splitting import TASK_SECONDS_TARGET, split_items
from peerinfer.tensors import FREE, STRING, Port
from peerinfer.units import format_count, format_duration, format_group
from peerinfer_node.cli.output import say, show
from peerinfer_node.cli.place import output_of
from peerinfer_node.cli.report import Report
from peerinfer_node.formats import open_inputs
from peerinfer_node.inference.static_check import check_model

PEERS_WAIT_S = 5.0
"""For a node that has just started to hear from somebody."""

_POLL_S = 0.1


def dry_run(arguments: argparse.Namespace, request: JobRequest, report: Report) -> int:
    """Raises as the job would before anything is sent."""
    if arguments.output is not None:
        output_of(arguments)
    plan = plan_of(request)
    for warning in plan.pop("warnings"):
        say(f"warning: {warning}")
    plan |= trio.run(_forecast, arguments, request)
    report.print_instead(plan)
    if not arguments.json:
        show(plan_lines(plan))
    return 0


def plan_of(request: JobRequest) -> dict[str, Any]:
    """The model's inputs and outputs, items and tasks. Raises `InputError`."""
    inputs, outputs = model_ports(request.model)
    opened = open_inputs(
        request.inputs,
        inputs,
        image_size=request.image_size,
        image_layout=request.image_layout,
        image_mean=request.image_mean,
        image_std=request.image_std,
    )
    binding = opened.binding
    split = split_items(
        opened.items,
        bytes_per_item=binding.item_bytes,
        # Nobody has run the model yet: as if one item took a task's time, divided by as many as a task may hold.
        seconds_per_item=TASK_SECONDS_TARGET / 256,
        block=binding.block,
        batch=request.batch,
    )
    return {
        "model": request.model,
        "inputs": [_port(port) for port in inputs],
        "outputs": [_port(port) for port in outputs],
        "items": opened.items,
        "tasks": split.tasks,
        "items_per_task": split.items_per_task,
        "is_exact": request.batch is not None,
        "verify": request.verify,
        "warnings": list(opened.warnings),
    }


def plan_lines(plan: Json) -> list[str]:
    about = "" if plan["is_exact"] else "about "
    lines = [f"model    {plan['model']}"]
    lines += [f"input    {_shown(port)}" for port in plan["inputs"]]
    lines += [f"output   {_shown(port)}" for port in plan["outputs"]]
    lines.append(f"items    {format_count(plan['items'])}")
    lines.append(
        f"tasks    {about}{format_count(plan['tasks'])} of up to {format_count(plan['items_per_task'], 'item')}"
    )
    lines.append(f"verify   {plan['verify']}")
    out = sum(group["count"] for group in plan["excluded"])
    fit = len(plan["eligible"])
    lines.append(f"peers    {fit} of {fit + out} may run it, this node included" if fit + out else "peers    nobody")
    lines += [f"  {format_group(group['count'], group['reason'])}" for group in plan["excluded"]]
    if plan["expected_s"] is not None:
        low, high = (format_duration(seconds) for seconds in plan["interval_s"])
        known = f"{plan['measured']} of {fit} measured with this model"
        lines.append(f"time     about {format_duration(plan['expected_s'])}, most likely {low} to {high} ({known})")
    return lines


def model_ports(path: str) -> tuple[list[Port], list[Port]]:
    """What the model takes and gives, from its graph alone. Raises `InputError`, `ModelRefused`."""
    import onnx

    data = _read(path)
    try:
        check_model(data)
    except ModelRefused as error:
        raise ModelRefused(f"{path}: {error}") from None
    graph = onnx.ModelProto.FromString(data).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [_read_port(value) for value in graph.input if value.name not in constants], [
        _read_port(value) for value in graph.output
    ]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MODEL_BYTES_MAX + 1)
    except OSError as error:
        raise InputError(f"cannot read the model {path}: {error.strerror}") from None
    return data


def _read_port(value: Any) -> Port:
    import onnx

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        raise ModelRefused(f"{quoted(value.name)} is not a tensor, and peerinfer carries tensors only")
    try:
        is_text = tensor.elem_type == onnx.TensorProto.STRING
        dtype = STRING if is_text else onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    except KeyError:
        dtype = "unknown"
    dims = tensor.shape.dim
    return Port(value.name, dtype, tuple(dim.dim_value if dim.HasField("dim_value") else FREE for dim in dims))


def _port(port: Port) -> Json:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}


def _shown(port: Json) -> str:
    return str(Port(port["name"], port["dtype"], tuple(port["shape"])))


async def _forecast(arguments: argparse.Namespace, request: JobRequest) -> Json:
    from peerinfer_node.cli.reaching import explained, reach

    async with reach(arguments) as reached:
        if not reached.is_daemon and not arguments.standalone:
            with trio.move_on_after(PEERS_WAIT_S):
                while not await _has_heard(reached.control):  # noqa: ASYNC110  # the control interface has no event for it
                    await trio.sleep(_POLL_S)
        try:
            return await reached.control.forecast(request)
        except PeerinferError as error:
            raise await explained(reached.control, error) from None


async def _has_heard(control: Control) -> bool:
    """Somebody is there, and everybody who is has said what it lends."""
    peers = [peer for peer in await control.peers() if peer["state"] == "alive"]
    return bool(peers) and all(peer["lends"] != "unknown" for peer in peers)
