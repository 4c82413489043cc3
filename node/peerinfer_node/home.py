"""Where the files of a node live, and the promise that one node at a time uses them.

By the XDG base directories: config.toml under `$XDG_CONFIG_HOME/peerinfer`, identity.key, state.db and jobs/ under
`$XDG_DATA_HOME/peerinfer`, blobs/ under `$XDG_CACHE_HOME/peerinfer`, logs/ under `$XDG_STATE_HOME/peerinfer`, and the
control socket at `$XDG_RUNTIME_DIR/peerinfer.sock`. `PEERINFER_HOME`, or a data directory given on the command line,
puts all of them under one folder.

A Unix socket's path holds 107 bytes. Where the path is longer, the socket gets a short name made from a hash of the
data directory, in the runtime directory or in a private folder under the temporary one. The name follows from the data
directory alone, so that a command finds the daemon that was started with the same settings.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peerinfer.errors import HomeInUse, StateUnusable, UsageError

SOCKET_PATH_BYTES_MAX = 107
"""`sun_path` of Linux has 108 bytes, the last of them zero."""

_NAME = "peerinfer"


@dataclass(frozen=True, slots=True)
class Home:
    """Absolute paths. Nothing exists before `prepare`."""

    config_file: Path
    data: Path
    cache: Path
    state: Path
    socket: Path

    @classmethod
    def resolve(cls, environ: Mapping[str, str], data_dir: str | Path | None = None) -> Home:
        """The home that the environment asks for; `data_dir` goes before `PEERINFER_HOME`. Makes no file."""
        folder = str(data_dir) if data_dir is not None else environ.get("PEERINFER_HOME", "")
        if data_dir is not None and not folder.strip():
            raise UsageError("--data-dir is empty; name a folder")
        if "\0" in folder:
            raise UsageError("the data directory's name holds a zero byte; name another folder")
        if folder:
            root = Path(os.path.abspath(_user_home(environ, folder)))
            try:
                is_other = root.exists() and not root.is_dir()
            except OSError as error:  # A name that is too long, a folder above it that may not be read.
                raise StateUnusable(
                    f"cannot use {str(root)[:200]}: {error.strerror}; choose another with PEERINFER_HOME or --data-dir"
                ) from None
            if is_other:
                raise StateUnusable(f"{root} is not a folder; choose another with PEERINFER_HOME or --data-dir")
            config, data, cache, state = root, root, root, root
            first_choice = root / f"{_NAME}.sock"
        else:
            config = _xdg(environ, "XDG_CONFIG_HOME", ".config")
            data = _xdg(environ, "XDG_DATA_HOME", ".local/share")
            cache = _xdg(environ, "XDG_CACHE_HOME", ".cache")
            state = _xdg(environ, "XDG_STATE_HOME", ".local/state")
            first_choice = (_runtime(environ) or state) / f"{_NAME}.sock"
        return cls(config / "config.toml", data, cache, state, _socket(environ, first_choice, data))

    @property
    def identity_key(self) -> Path:
        return self.data / "identity.key"

    @property
    def state_db(self) -> Path:
        return self.data / "state.db"

    @property
    def seats_db(self) -> Path:
        return self.data / "seats.db"

    @property
    def token_file(self) -> Path:
        """What programs must know to use this node over TCP."""
        return self.data / "api.token"

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def jobs(self) -> Path:
        return self.data / "jobs"

    @property
    def blobs(self) -> Path:
        return self.cache / "blobs"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pid_file(self) -> Path:
        return self.data / "node.pid"

    def prepare(self) -> None:
        """Creates the folders that are missing, for their owner only (0700).

        Raises `StateUnusable` if one cannot be had, or if others may write to the folder that holds the key.
        """
        for folder in (self.data, self.jobs, self.blobs, self.logs, self.config_file.parent, self.socket.parent):
            _make_private(folder)
        if self.data.stat().st_mode & stat.S_IWOTH:
            raise StateUnusable(f"everybody may write to {self.data}, which holds the node's key: run chmod o-w on it")
        if self.socket.parent.name == _temporary_name():
            _check_own(self.socket.parent)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home for this process. The kernel lets go when the process ends, however it ends.

        Call `prepare` first. Raises `HomeInUse` if another node holds it. The file stays behind, since removing it
        would let two nodes lock two files of one name.
        """
        try:
            import fcntl
        except ImportError:
            raise StateUnusable("this system has no locks on files as a node needs them; run it on Linux") from None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.pid_file, flags, 0o600)
        except OSError as error:
            raise StateUnusable(f"cannot use {self.pid_file}: {error.strerror}") from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HomeInUse(
                    f"another peerinfer node ({_pid_in(fd)}) uses {self.data}; "
                    "stop it or give this one its own PEERINFER_HOME"
                ) from None
            except OSError as error:
                raise StateUnusable(f"cannot lock {self.pid_file}: {error.strerror}; choose a local disk") from None
            _write_pid(fd, self.pid_file)
            yield
            os.ftruncate(fd, 0)
        finally:
            os.close(fd)


def _user_home(environ: Mapping[str, str], path: str) -> str:
    if path == "~" or path.startswith("~/"):
        return (environ.get("HOME") or os.path.expanduser("~")) + path[1:]
    return path


def _xdg(environ: Mapping[str, str], name: str, default: str) -> Path:
    given = environ.get(name, "")
    # The specification: a relative path is invalid and is to be ignored.
    base = given if os.path.isabs(given) else _user_home(environ, f"~/{default}")
    return Path(os.path.abspath(base)) / _NAME


def _runtime(environ: Mapping[str, str]) -> Path | None:
    given = environ.get("XDG_RUNTIME_DIR", "")
    return Path(given) if os.path.isabs(given) else None


def _temporary_name() -> str:
    return f"{_NAME}-{os.getuid()}"


def _socket(environ: Mapping[str, str], first_choice: Path, data: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(os.path.realpath(data))).hexdigest()[:16]
    runtime = _runtime(environ)
    temporary = environ.get("TMPDIR", "")
    choices = [first_choice]
    if runtime is not None:
        choices.append(runtime / f"{_NAME}-{digest}.sock")
    if os.path.isabs(temporary):
        choices.append(Path(temporary) / _temporary_name() / f"{digest}.sock")
    choices.append(Path("/tmp") / _temporary_name() / f"{digest}.sock")  # noqa: S108  # made private, and checked
    return next(path for path in choices if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX)


def _make_private(folder: Path) -> None:
    missing = []
    try:
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StateUnusable(
            f"cannot create {folder}: {error.strerror}; choose another place with PEERINFER_HOME"
        ) from None


def _check_own(folder: Path) -> None:
    """In the temporary directory anybody may have made our folder first, and would then own our control socket."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StateUnusable(f"{folder} is not private to you: remove it, or set XDG_RUNTIME_DIR")


def _pid_in(fd: int) -> str:
    text = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
    return f"pid {text}" if text.isdigit() else "of unknown pid"


def _write_pid(fd: int, path: Path) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except OSError as error:
        raise StateUnusable(f"cannot write {path}: {error.strerror}; free some space and start again") from None
