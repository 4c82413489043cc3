"""join --service, with a systemctl that writes down what it was asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from peerinfer_node.cli.service import unit_path, unit_text

SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$SAID"
[ -z "$FAILS" ] || { echo "Failed to connect to bus: No medium found" >&2; exit 1; }
"""


def peerinfer(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "systemctl").write_text(SYSTEMCTL)
    (programs / "systemctl").chmod(0o755)
    variables = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder),
        "PEERINFER_HOME": str(folder / "home"),
        "SAID": str(folder / "said"),
        **environ,
    }
    return subprocess.run(
        [sys.executable, "-m", "peerinfer_node", *words], check=False, capture_output=True, text=True, env=variables,
        timeout=60,
    )  # fmt: skip


def unit_in(folder: Path) -> Path:
    return folder / ".config/systemd/user/peerinfer.service"


@pytest.mark.slow
def test_install_writes_a_unit_with_the_flags_and_starts_it_and_remove_takes_it_back(tmp_path: Path) -> None:
    done = peerinfer(tmp_path, "join", "--service", "install", "--name", "the lab", "--idle-only", "--max-temp=80")
    assert done.returncode == 0, done.stderr
    unit = unit_in(tmp_path).read_text()
    assert '-m peerinfer_node join --name "the lab" --max-temp 80 --idle-only\n' in unit
    assert f"Environment=PEERINFER_HOME={tmp_path / 'home'}" in unit
    said = (tmp_path / "said").read_text().splitlines()
    assert said == ["--user daemon-reload", "--user enable peerinfer.service", "--user restart peerinfer.service"]
    assert peerinfer(tmp_path, "join", "--service", "remove").returncode == 0
    assert not unit_in(tmp_path).exists()
    again = peerinfer(tmp_path, "join", "--service", "remove")
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)


@pytest.mark.slow
def test_an_invite_is_kept_in_the_home_and_not_in_the_unit(tmp_path: Path) -> None:
    made = peerinfer(tmp_path, "swarm", "create", "forest", "--data-dir", str(tmp_path / "other"))
    assert made.returncode == 0, made.stderr
    invite = next(word for word in made.stdout.split() if word.startswith("peerinfer1:"))
    done = peerinfer(tmp_path, "join", invite, "--service", "install")
    assert done.returncode == 0, done.stderr
    assert "peerinfer1:" not in unit_in(tmp_path).read_text()
    assert '"swarm": "forest"' in (tmp_path / "home" / "swarm.json").read_text()


@pytest.mark.slow
def test_without_a_systemd_of_the_user_one_line_says_so(tmp_path: Path) -> None:
    done = peerinfer(tmp_path, "join", "--service", "install", FAILS="yes")
    assert done.returncode == 1
    assert "Failed to connect to bus" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    wrong = peerinfer(tmp_path, "join", "--service", "start")
    assert wrong.returncode == 2


def test_words_are_quoted_as_systemd_reads_them() -> None:
    text = unit_text(["/bin/x", "a b", "50%", "$HOME", 'say "hi"', ""], {"PEERINFER_HOME": "/my home"})
    assert 'ExecStart=/bin/x "a b" 50%% $$HOME "say \\"hi\\"" ""\n' in text
    assert 'Environment="PEERINFER_HOME=/my home"\n' in text


def test_a_flag_cannot_bring_lines_of_its_own() -> None:
    with pytest.raises(Exception, match="line breaks"):
        unit_text(["/bin/x", "a\nExecStartPre=/bin/evil"], {})


def test_the_unit_lies_where_the_user_keeps_units() -> None:
    assert unit_path({"HOME": "/home/ada"}) == Path("/home/ada/.config/systemd/user/peerinfer.service")
    assert unit_path({"HOME": "/home/ada", "XDG_CONFIG_HOME": "/c"}) == Path("/c/systemd/user/peerinfer.service")
