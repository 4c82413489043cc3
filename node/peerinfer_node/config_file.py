"""config.toml, and which of four places each setting comes from: flags, environment, config.toml, defaults.

The file is flat: one `key = value` for each setting. `set_value` changes only the lines of its own key, so comments and
order stay; what it wrote is read back and compared before it takes the old file's place.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peerinfer.config import SETTINGS, NodeConfig, Setting
from peerinfer.errors import StateUnusable, UsageError

FILE_BYTES_MAX = 256 * 1024
"""All settings at their longest take less than a tenth of this."""

OTHER_VARIABLES = frozenset({"PEERINFER_HOME", "PEERINFER_CONFIG"})
"""Environment variables of ours that are not settings: where the home is, and where config.toml is."""

DEFAULT_SOURCE = "default"


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of `config show`."""

    key: str
    value: str
    source: str
    """A flag, a variable, the path of config.toml, or "default"."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration, and where each of its values came from, by key."""

    config: NodeConfig
    sources: Mapping[str, str]

    def show(self) -> list[Shown]:
        """Every setting, in the order of the fields."""
        return [self.get(key) for key in SETTINGS]

    def get(self, key: str) -> Shown:
        """Raises `UsageError` if there is no such setting."""
        setting = find_setting(key)
        return Shown(setting.key, setting.text(getattr(self.config, setting.field)), self.sources[setting.key])


def find_setting(key: str, *, label: str = "") -> Setting:
    """The setting of this key; dashes are as good as underscores. Raises `UsageError`, naming the nearest known key."""
    setting = SETTINGS.get(key.replace("-", "_"))
    if setting is None:
        near = difflib.get_close_matches(key.replace("-", "_"), SETTINGS, n=1)
        known = list(SETTINGS)
        advice = f"did you mean {near[0]}?" if near else f"the settings are {', '.join(known)}"
        raise UsageError(f"{label}there is no setting {key[:64]!r}; {advice}")
    return setting


def config_path(environ: Mapping[str, str], default: Path, flag: str | Path | None = None) -> tuple[Path, bool]:
    """Where config.toml is, and whether somebody named it, so that it must exist: flag, `PEERINFER_CONFIG`, home."""
    named = flag if flag is not None else environ.get("PEERINFER_CONFIG") or None
    return (Path(os.path.abspath(os.path.expanduser(named))), True) if named is not None else (default, False)


def resolve(
    flags: Mapping[str, object], environ: Mapping[str, str], path: Path | None, *, must_exist: bool = False
) -> Resolved:
    """The configuration: flags before `PEERINFER_*` before the file at `path` before defaults.

    `flags` holds, by key, texts or values as argparse makes them; None stands for a flag not given. Raises
    `UsageError` for unknown keys and for values that do not fit, naming their place, and `StateUnusable` if the file
    cannot be read.
    """
    file = {} if path is None else read_file(path, must_exist=must_exist)
    return _resolved(file, path, environ, flags)


def _resolved(
    file: Mapping[str, object], path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> Resolved:
    """`file` is what stands in the file at `path`, or will. Raises `UsageError`, naming where the value comes from."""
    places: list[tuple[str, Mapping[str, object]]] = [(str(path), file), ("", _of_environment(environ)), ("", flags)]
    values: dict[str, Any] = {}
    sources = dict.fromkeys(SETTINGS, DEFAULT_SOURCE)
    for number, (place, found) in enumerate(places):
        for key, value in found.items():
            if value is None:
                continue
            setting = SETTINGS.get(key)
            source = place or ("" if setting is None else (setting.variable, setting.flag)[number - 1])
            setting = find_setting(key, label=f"{source}: " if source else "")
            values[setting.field] = _read(setting, value, source if number else f"{source}: {setting.key}")
            sources[setting.key] = source
    try:
        return Resolved(NodeConfig(**values), sources)
    except UsageError as error:  # Values that are good each by itself: it begins with the setting.
        source = sources.get(str(error).partition(":")[0], DEFAULT_SOURCE)
        raise UsageError(f"{source}: {error}" if source == str(path) else str(error)) from None


def read_file(path: Path, *, must_exist: bool = False) -> dict[str, object]:
    """What the file says, by key; nothing if there is none, unless it `must_exist`. Values are not checked yet."""
    return _parse(_text_of(path, must_exist=must_exist), path)


def get_value(key: str, environ: Mapping[str, str], path: Path) -> Shown:
    """`config get`."""
    find_setting(key)
    return resolve({}, environ, path).get(key)


def set_value(path: Path, key: str, value: object | None) -> str:
    """`config set`: writes one setting to the file, or removes it (None), and leaves the other lines as they are.

    Makes the file if there is none. Returns what is wrong in it still: of several mistakes one
    is mended at a time. Raises `UsageError` if the value does not fit, alone or with the others, or if the
    file is written in a way that cannot be changed line by line; the file is then as it was. Raises `StateUnusable` if
    it cannot be written.
    """
    setting = find_setting(key)
    old = _text_of(path)
    wanted = _parse(old, path)
    before = wanted.pop(setting.key, None)
    line = None
    if value is not None:
        written = _for_toml(setting, value, _read(setting, value, setting.key))
        line = f"{setting.key} = {_toml(written)}"
        wanted[setting.key] = written
    new = _changed(old, setting.key, line)
    try:
        is_as_wanted = _parse(new, path) == wanted
    except UsageError:
        is_as_wanted = False
    if not is_as_wanted:
        for other in wanted:  # A table swallows the line; it is none of ours.
            find_setting(other, label=f"{path}: ")
        raise UsageError(f"{path} is written in a way that cannot be changed here; change {setting.key} in an editor")
    still = ""
    try:
        _resolved(wanted, path, {}, {})
    except UsageError as error:
        if before is None or _fits(setting, before):
            raise
        still = str(error)
    _replace(path, new)
    return still


def _fits(setting: Setting, value: object) -> bool:
    try:
        setting.read(value)
    except UsageError:
        return False
    return True


def _of_environment(environ: Mapping[str, str]) -> dict[str, object]:
    by_variable = {setting.variable: key for key, setting in SETTINGS.items()}
    found: dict[str, object] = {}
    for name, value in environ.items():
        if name in by_variable:
            found[by_variable[name]] = value
        elif name.startswith("PEERINFER_") and name not in OTHER_VARIABLES:
            # Others may use the prefix for things of their own, but a slip of the pen must not switch a limit off.
            near = difflib.get_close_matches(name, by_variable, n=1, cutoff=0.9)
            if near:
                raise UsageError(f"there is no variable {name[:64]}; did you mean {near[0]}?")
    return found


def _read(setting: Setting, value: object, label: str) -> Any:
    try:
        return setting.read(value)
    except UsageError as error:
        raise UsageError(f"{label}: {error}") from None


# --- the file ------------------------------------------------------------------------------------------------------


def _text_of(path: Path, *, must_exist: bool = False) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        if must_exist:
            raise UsageError(f"there is no {path}; name a file that exists, or leave it out") from None
        return ""
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; remove it, or name a file with --config") from None
    except OSError as error:
        raise StateUnusable(f"cannot read {path}: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(f"{path} is larger than {FILE_BYTES_MAX // 1024} KiB; that is no configuration")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8; write it anew") from None


def _parse(text: str, path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; so is a number that is too long
        line = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is not TOML: {line}") from None


def _for_toml(setting: Setting, given: object, read: Any) -> object:
    """What the file shall hold: switches, numbers and lists as TOML has them, all else as it was written."""
    if setting.is_list:
        return [setting.show(part) for part in read]
    if isinstance(read, bool) or (isinstance(read, int) and setting.text(read) == str(read)):
        return read
    return given.strip() if isinstance(given, str) else setting.text(read)


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(part) for part in value)}]"
    # JSON writes switches, numbers and texts as TOML does, but leaves DEL bare.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _changed(text: str, key: str, line: str | None) -> str:
    """`text` with the statement of `key` replaced by `line`, taken out (None), or added after the last line."""
    # Not splitlines: it also breaks at characters that may stand inside a TOML text.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    start_of_key = re.compile(rf"\s*(?:{key}|\"{key}\"|'{key}')\s*=")
    for start, found in enumerate(lines):
        if start_of_key.match(found):
            end = _end_of_statement(lines, start)
            comment = _comment_of(found) if end == start + 1 and line is not None else ""
            lines[start:end] = [] if line is None else [line + comment]
            break
    else:
        if line is not None:
            lines.append(line)
    return "".join(f"{each}\n" for each in lines)


def _end_of_statement(lines: list[str], start: int) -> int:
    for end in range(start + 1, len(lines) + 1):
        if _loads("\n".join(lines[start:end])) is not None:
            return end
    return start + 1


def _comment_of(line: str) -> str:
    """The comment behind a statement, with the spaces before it."""
    whole = _loads(line)
    for position, character in enumerate(line):
        if character == "#" and _loads(line[:position]) == whole:
            return line[len(line[:position].rstrip()) :]
    return ""


def _loads(text: str) -> dict[str, object] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _replace(path: Path, text: str) -> None:
    """Never leaves half a file: writes beside it, then renames. A link is followed, as dotfiles often are links."""
    target = Path(os.path.realpath(path))
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            with os.fdopen(fd, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StateUnusable(f"cannot write {path}: {error.strerror}") from None
