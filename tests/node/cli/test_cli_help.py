"""Help fits the screen and answers at once."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from peerinfer import __version__
from peerinfer_node.cli import main
from peerinfer_node.cli.parser import build_parser

HELP_TIMEOUT_S = 1.0
"""The aim is 0.3 s on an idle machine; here others compute at the same time."""


def commands() -> list[str]:
    return list(build_parser().known)


def test_the_first_help_fits_a_terminal_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert sorted(listed) == sorted(commands())


@pytest.mark.parametrize("command", commands())
def test_every_command_explains_itself_with_one_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count("example: peerinfer") == 1
    assert f"example: peerinfer {command}" in text
    assert max(len(line) for line in text.splitlines()) <= 80


@pytest.mark.parametrize(
    "action", ["jobs show", "jobs attach", "jobs cancel", "jobs fetch", "jobs rescue", "config path", "config set"]
)
def test_actions_explain_themselves_too(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*action.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: peerinfer {action}")
    assert f"example: peerinfer {action.split()[0]}" in text


def test_without_a_command_the_help_goes_to_stderr_and_the_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: peerinfer COMMAND")


@pytest.mark.parametrize("arguments", [["version"], ["--version"]])
def test_the_version_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"peerinfer {__version__}\n"


def test_help_starts_fast_and_imports_nothing_heavy() -> None:
    heavy = ["trio", "numpy", "httpx", "onnx", "onnxruntime", "libp2p", "hypercorn", "msgpack", "psutil"]
    program = (
        "import sys; from peerinfer_node.cli import main; main(['--help']);"
        f"print(*[name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    taken_s = []
    for _ in range(3):
        started_s = time.perf_counter()
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
        taken_s.append(time.perf_counter() - started_s)
        assert child.stderr.strip() == ""
    print(f"peerinfer --help: {min(taken_s) * 1000:.0f} ms")
    assert min(taken_s) < HELP_TIMEOUT_S
