"""What people type, right and wrong."""

from __future__ import annotations

import argparse
import dataclasses
import itertools

import pytest

from peerinfer.config import SETTINGS
from peerinfer.control import JobRequest
from peerinfer.errors import UsageError
from peerinfer_node.cli import join, main
from peerinfer_node.cli.parser import build_parser
from peerinfer_node.cli.run import request_from

RUN = "run m.onnx in.npz -o out.npz"


def parsed(line: str) -> argparse.Namespace:
    namespace: argparse.Namespace = build_parser().parse_args(line.split())
    return namespace


WRONG = [
    ("nonsense", "no command 'nonsense'"),
    ("ru m.onnx", "no command 'ru'"),
    ("--jsn", "--jsn"),
    ("run", "MODEL"),
    ("run m.onnx", "INPUT"),
    ("run m.onnx in.npz", "-o OUT"),
    ("run m.onnx in.npz -o", "-o"),
    (f"{RUN} --batch 0", "whole number from 1"),
    (f"{RUN} --batch -3", "batch"),
    (f"{RUN} --batch 1.5", "whole number"),
    (f"{RUN} --batch many", "whole number"),
    (f"{RUN} --batch 99999999999999999999", "whole number"),
    (f"{RUN} --verify quorum:1", "quorum:2"),
    (f"{RUN} --verify quorum:10", "quorum:2"),
    (f"{RUN} --verify Spot", "spot"),
    (f"{RUN} --strategy best", "adaptive, round-robin, least-loaded, gpu-match, latency"),
    (f"{RUN} --compare near", "allclose"),
    (f"{RUN} --rtol -1", "at least 0"),
    (f"{RUN} --rtol nan", "at least 0"),
    (f"{RUN} --atol inf", "at least 0"),
    (f"{RUN} --priority highest", "urgent, high, normal, low"),
    (f"{RUN} --timeout soon", "not a duration"),
    (f"{RUN} --timeout -5", "timeout"),
    (f"{RUN} --deadline 0", "above 0"),
    (f"{RUN} --task-timeout 0", "above 0"),
    (f"{RUN} --retries 101", "0 to 100"),
    (f"{RUN} --retries -1", "retries"),
    (f"{RUN} --min-vram much", "not a size"),
    (f"{RUN} --device-kind npu", "cpu, gpu"),
    (f"{RUN} --image-size 0", "1 to 16384"),
    (f"{RUN} --image-size 1x2x3", "height x width"),
    (f"{RUN} --image-layout chw", "nchw"),
    (f"{RUN} --image-mean a,b", "0.485"),
    (f"{RUN} --image-mean 1,2,3,4,5", "one per channel"),
    (f"{RUN} --image-std 0", "no channel may be 0"),
    (f"{RUN} --standalone --bootstrap /ip4/1.2.3.4/tcp/1/p2p/x", "choose one"),
    (f"{RUN} --bootstrap nowhere", "not the address of a peer"),
    (f"{RUN} --no-such-flag", "--no-such-flag"),
    (f"{RUN} --stand", "--stand"),
    (f"{RUN} --config /no/such/file --standalone", "no /no/such/file"),
    ("join peerinfer1:abc", "damaged"),
    ("join --listen 4001", "listen"),
    ("join --bootstrap nowhere", "not the address of a peer"),
    ("join --device gpu:x", "is not a device"),
    ("join --device tpu", "not a device"),
    ("join --cpu-threads 0", "cpu-threads"),
    ("join --max-cache 1KiB", "too little"),
    ("join --log-format xml", "log-format"),
    ("join --log-level loud", "log-level"),
    ("join a b", "b"),
    ("jobs fetch 1234", "-o"),
    ("jobs show", "ID"),
    ("jobs forget 1", "forget"),
    ("pause --for 1h --until 18:00", "not allowed with"),
    ("pause --for 0", "above 0"),
    ("pause --until 25:00", "time of day"),
    ("config", "peerinfer config path"),
    ("config get no_such_key", "no setting"),
    ("config set name", "VALUE"),
    ("config set cpu_threads many", "whole number"),
    ("swarm", "swarm create NAME"),
    ("swarm create", "NAME"),
    ("swarm create lab --address nonsense", "write it like /dns4/lab.example.org/tcp/4001"),
    ("swarm create lab --address /ip4/999.1.1.1/tcp/1", "no address that can be dialled"),
    ("swarm create lab --expires banana", "90s"),
    ("join nonsense", "an invite begins with peerinfer1:"),
    ("join peerinfer1:", "copy all of it again"),
    ("join peerinfer2:abc", "upgrade this one"),
    (f"{RUN} --swarm nonsense", "an invite begins with peerinfer1:"),
    ("join --bootstrap /ip4/127.0.0.1/tcp/99999/p2p/12D3KooWAbEez7Lij4ePbWy7ZCiUq7QtoznAk3Xpynw6Jv6znNWp", "not the"),
    (f"{RUN} --standalone --swarm peerinfer1:abc", "choose one"),
    ("reputation --all", "--all"),
    ("reputation verify", "takes one file"),
    ("reputation verify a -o b", "takes one file"),
    ("reputation export a", "-o FILE"),
    ("reputation abcd -o b", "reputation export -o FILE"),
    ("status extra", "extra"),
    ("tui", "the dashboard needs a terminal"),
    ("jobs fetch 3f2a --output=", "name the output with -o OUT"),
    ("run model.onnx in.npz --output=", "name the output with -o OUT"),
    ("join --models /nowhere/models", "there is no folder /nowhere/models; create it"),
    ("serve --models /nowhere/models", "there is no folder /nowhere/models; create it"),
    ("bench --device cpu", "see: peerinfer bench --help"),
]


@pytest.mark.parametrize(("line", "hint"), WRONG, ids=[line for line, _ in WRONG])
def test_a_wrong_command_says_what_is_wrong_in_one_line_and_exits_with_2(
    line: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith("peerinfer")
    assert hint in err


def test_every_setting_is_a_flag_of_join_or_refused_by_it() -> None:
    taken = {"--no-mdns", *("--" + key.replace("_", "-") for key in (*join.FLAGS, *join.SWITCHES))}
    for setting in SETTINGS.values():
        if setting.key == "swarm":
            continue
        assert setting.flag in taken, setting.flag
    assert taken <= {setting.flag for setting in SETTINGS.values()}


def test_without_options_a_request_has_its_own_defaults() -> None:
    request = request_from(parsed("run /m.onnx /in.npz -o out.npz"))
    assert request == JobRequest("/m.onnx", ("/in.npz",))


def test_every_option_reaches_the_request() -> None:
    line = (
        "run /m.onnx /a.npz /b.npz -o out.npz --batch 7 --verify quorum:3 --compare cosine --rtol 1e-3 --atol 0 "
        "--priority urgent --strategy gpu-match --timeout 2m --task-timeout 5s --deadline 1h --retries 0 --resume "
        "--standalone --no-replicate "
        "--min-vram 4GiB --device-kind gpu --image-size 480x640 --image-layout nhwc --image-mean 0.1,0.2,0.3 --image-std 2"
    )
    request = request_from(parsed(line))
    assert request == JobRequest(
        "/m.onnx",
        ("/a.npz", "/b.npz"),
        batch=7,
        verify="quorum:3",
        compare="cosine",
        rtol=0.001,
        atol=0.0,
        priority="urgent",
        strategy="gpu-match",
        timeout_s=120.0,
        task_timeout_s=5.0,
        deadline_s=3600.0,
        retries=0,
        resume=True,
        replicate=False,
        local_only=True,
        min_vram_bytes=4 << 30,
        device_kind="gpu",
        image_size=(480, 640),
        image_layout="nhwc",
        image_mean=(0.1, 0.2, 0.3),
        image_std=(2.0,),
    )
    default = JobRequest("/m.onnx", ("/a.npz",))
    unset = [f.name for f in dataclasses.fields(JobRequest) if getattr(request, f.name) == getattr(default, f.name)]
    assert unset == ["model", "detach"]


def test_options_may_stand_anywhere() -> None:
    for order in itertools.permutations((["/m.onnx", "/a.npz"], ["-o", "out.npz"], ["--batch", "auto"])):
        request = request_from(build_parser().parse_args(["run", *itertools.chain(*order)]))
        assert request.inputs == ("/a.npz",)


def test_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    request = request_from(parsed("run m.onnx ../in.npz -o out.npz"))
    assert request.model == f"{tmp_path}/m.onnx"
    assert request.inputs[0].startswith("/")
    assert ".." not in request.inputs[0]


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    arguments = parsed("run m.onnx in.npz -o out.npz")
    arguments.inputs = [path]
    with pytest.raises(UsageError):
        request_from(arguments)


@pytest.mark.parametrize("line", ["jobs --json show 1234", "jobs show 1234 --json"])
def test_a_flag_counts_before_and_after_the_action(line: str) -> None:
    assert parsed(line).json is True
    assert parsed("jobs show 1234").json is False
