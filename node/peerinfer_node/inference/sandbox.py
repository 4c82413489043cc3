"""Locks the calling process in, with what Linux offers to anyone: no root, no setuid helper, nothing but ctypes.

A model is a program from a stranger, and its parser and kernels are a large amount of C++ that was not written for
strangers. So the worker process gives up, before it imports any of that, everything that inference does not need:

    no_new_privs   what it runs gains no rights; also the condition for the other two
    rlimits        memory, no core dump, no file may grow, few descriptors
    landlock       no file can be opened but the libraries (read only); no TCP, no signals and no abstract sockets outward
    seccomp        no new process, program, socket or keyring, no changed file; only itself can be signalled

A worker for a graphics card needs an opening (`Opening`): its device file may be opened for writing and controlled, and
drivers may read about themselves. What stays open then is the kernel's graphics driver itself. Where Landlock is missing,
nothing else holds back writing into files that exist; the level says so ("partial").

Landlock does not cover chmod, chown, utimes and the like, and old kernels do not have it: that is why the filter also
denies every call that changes a file or opens one for writing. Each layer alone leaves escapes open (without Landlock:
reading what the user can read); together none of the probed ones is left. A missing layer is reported, never hidden.

The filter lists what is denied: an allow list breaks with every new libc. Calls that are newer than the list do not
exist inside (ENOSYS, as on an older kernel).

It must be applied while the process has one thread: NumPy and ONNX Runtime start threads when they are imported.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import struct
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

OPEN_FILES_MAX = 64
OPEN_FILES_GPU_MAX = 512
"""Drivers hold a descriptor for every buffer that they share."""


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9


@dataclass(frozen=True, slots=True)
class Layers:
    """What is in force in this process."""

    no_new_privs: bool
    rlimits: bool
    landlock: int
    """Version of Landlock's interface, 0 where the kernel has none."""
    seccomp: bool

    @property
    def level(self) -> str:
        """ "full", "partial" or "none". Limits alone stop nobody, so they count for nothing."""
        if self.no_new_privs and self.rlimits and self.landlock and self.seccomp:
            return "full"
        return "partial" if self.landlock or self.seccomp else "none"

    def __str__(self) -> str:
        parts = ["no_new_privs"] * self.no_new_privs + ["rlimits"] * self.rlimits
        if self.landlock:
            parts.append(f"landlock={self.landlock}")
        return " ".join(parts + ["seccomp"] * self.seccomp) or "nothing"


@dataclass(frozen=True, slots=True)
class Opening:
    """What stays open beyond what every worker needs. Empty for the processor."""

    readable: tuple[str, ...] = ()
    device_files: tuple[str, ...] = ()

    @property
    def is_for_device(self) -> bool:
        return bool(self.device_files)


def lock_in(packages: Iterable[ModuleType], *, memory_bytes: int, opening: Opening) -> Layers:
    """Applies every layer that this system has, for good. The code of `packages` and of the installation stays readable.

    `memory_bytes` limits the address space; with a device file it limits the private memory instead, since drivers map
    much more than they use. Layers that fail are left out and missing in the answer.
    """
    on_linux = sys.platform == "linux"
    readable = [*readable_paths(packages), *opening.readable]
    return Layers(
        no_new_privs=on_linux and _tried(_no_new_privs),
        rlimits=_tried(lambda: _limit_resources(memory_bytes, opening.is_for_device)),
        landlock=_landlock(readable, opening.device_files) if on_linux else 0,
        seccomp=on_linux and _tried(lambda: _filter_calls(opening.is_for_device)),
    )


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when the one that started it ends; exits if that has already happened."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _tried(layer: object) -> bool:
    assert callable(layer)
    try:
        layer()
    except (ImportError, OSError, ValueError):
        return False
    return True


def _no_new_privs() -> None:
    if _libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")


def _limit_resources(memory_bytes: int, is_for_device: bool) -> None:
    import resource  # not on Windows

    limits = {
        resource.RLIMIT_CORE: 0,
        # Drivers keep what they share in files without a name; Landlock lets them have no other.
        resource.RLIMIT_FSIZE: memory_bytes if is_for_device else 0,
        resource.RLIMIT_NOFILE: OPEN_FILES_GPU_MAX if is_for_device else OPEN_FILES_MAX,
        resource.RLIMIT_DATA if is_for_device else resource.RLIMIT_AS: memory_bytes,
    }
    for limit, wanted in limits.items():
        _, hard = resource.getrlimit(limit)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(limit, (value, value))


def _syscall(number: int, *arguments: object) -> int:
    result: int = _libc().syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


# --- Landlock (Documentation/userspace-api/landlock.rst) -----------------------------------------------------------

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_ACCESS_OF_VERSION_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_BIND_AND_CONNECT_TCP = 3
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3


def readable_paths(packages: Iterable[ModuleType]) -> list[str]:
    """What the process may read: shared libraries, the Python installation, these packages, and facts on the processor."""
    paths = [
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/nix/store",
        "/gnu/store",
        "/etc/ld.so.cache",
        "/proc/self",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/sys/vm/overcommit_memory",
        "/sys/devices/system/cpu",
        "/sys/devices/system/node",
        "/dev/null",
        "/dev/urandom",
        os.path.join(sys.base_prefix, "lib"),
        os.path.join(sys.base_prefix, "lib64"),
    ]
    paths += [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [os.path.dirname(package.__file__) for package in packages if package.__file__]
    return list(dict.fromkeys(paths))


def _landlock(readable: Iterable[str], device_files: Iterable[str]) -> int:
    """Returns the version in force, 0 if the kernel has none or refuses."""
    try:
        version = _syscall(_CREATE_RULESET, None, 0, _RULESET_VERSION)
        handled = _ACCESS_OF_VERSION_1
        handled |= _REFER if version >= 2 else 0
        handled |= _TRUNCATE if version >= 3 else 0
        handled |= _IOCTL_DEV if version >= 5 else 0
        fields = [handled]
        fields += [_BIND_AND_CONNECT_TCP] if version >= 4 else []
        fields += [_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS] if version >= 6 else []
        attributes = struct.pack(f"={len(fields)}Q", *fields)
        ruleset = _syscall(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)
        try:
            for path in readable:
                _allow(ruleset, path, _READ_FILE | _READ_DIR)
            for path in device_files:
                _allow(ruleset, path, (_WRITE_FILE | _READ_FILE | _READ_DIR | _IOCTL_DEV) & handled)
            _syscall(_RESTRICT_SELF, ruleset, 0)
        finally:
            os.close(ruleset)
    except OSError:
        return 0
    return version


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # Not every system has every path; what is not there need not be read.
    try:
        access &= ~0 if stat.S_ISDIR(os.fstat(beneath).st_mode) else ~_READ_DIR
        rule = struct.pack("=Qi", access, beneath)
        _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.c_char_p(rule), 0)
    finally:
        os.close(beneath)


# --- seccomp -------------------------------------------------------------------------------------------------------

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name x86_64 aarch64, from the kernel's unistd.h; "-" where the architecture never had the call.
_DENIED = """
execve 59 221, execveat 322 281, fork 57 -, vfork 58 -, ptrace 101 117, process_vm_readv 310 270,
process_vm_writev 311 271, process_madvise 440 440, process_mrelease 448 448, kcmp 312 272, pidfd_open 434 434,
pidfd_getfd 438 438, pidfd_send_signal 424 424, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, tkill 200 130,
setpriority 141 140, ioprio_set 251 30, sched_setscheduler 144 119, sched_setparam 142 118, sched_setattr 314 274,
setsid 112 157, setpgid 109 154,
setuid 105 146, setgid 106 144, setreuid 113 145, setregid 114 143, setresuid 117 147, setresgid 119 149,
setgroups 116 159, setfsuid 122 151, setfsgid 123 152, capset 126 91, unshare 272 97, setns 308 268, personality 135 92,
socket 41 198, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,
creat 85 -, truncate 76 45, mkdir 83 -, mkdirat 258 34, rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -,
renameat 264 38, renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, mknod 133 -,
mknodat 259 33, chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -,
fchownat 260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, setxattr 188 5, lsetxattr 189 6,
fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, chroot 161 51, open_by_handle_at 304 265,
name_to_handle_at 303 264,
shmget 29 194, shmat 30 196, shmctl 31 195, msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187, semget 64 190,
semop 65 193, semtimedop 220 192, semctl 66 191, mq_open 240 180, mq_unlink 241 181, mq_notify 244 184,
memfd_secret 447 447, add_key 248 217, request_key 249 218, keyctl 250 219,
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425, io_uring_enter 426 426,
io_uring_register 427 427, kexec_load 246 104, kexec_file_load 320 294, init_module 175 105, finit_module 313 273,
delete_module 176 106, mount 165 40, umount2 166 39, pivot_root 155 41, move_mount 429 429, open_tree 428 428,
fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442, fanotify_init 300 262,
fanotify_mark 301 263, inotify_init 253 -, inotify_init1 294 26, inotify_add_watch 254 27, reboot 169 142,
swapon 167 224, swapoff 168 225, acct 163 89, syslog 103 116, quotactl 179 60, quotactl_fd 443 443, iopl 172 -,
ioperm 173 -, modify_ldt 154 -, sethostname 170 161, setdomainname 171 162, settimeofday 164 170,
clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266, move_pages 279 239, migrate_pages 256 238,
vmsplice 278 75, vhangup 153 58
"""
_JUDGED = "clone 56 220, clone3 435 435, kill 62 129, tgkill 234 131, open 2 -, openat 257 56, openat2 437 437, \
prlimit64 302 261"
_SECCOMP = {"x86_64": 317, "aarch64": 277}

_FIRST_UNKNOWN = 463
"""setxattrat; x32's numbers, which start at 2**30, fall under this as well."""

_SET_MODE_FILTER, _TSYNC = 1, 1
_CLONE_THREAD = 0x10000
_MAKES_FILES = os.O_CREAT | os.O_TRUNC | 0o20000000  # the last is the own bit of O_TMPFILE
_OPENS_FOR_WRITING = os.O_ACCMODE | _MAKES_FILES

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_DENY, _NO_SUCH_CALL = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS

_Instruction = tuple[int, int, int, int]


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = 1 + tuple(_AUDIT_ARCH).index(machine)
    rows = (row.split() for row in table.split(","))
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


def _filter(machine: str, process: int, denied_opening: int) -> list[_Instruction]:
    """The program that judges every system call of `process`. Offsets are those of `struct seccomp_data`.

    `denied_opening` are the flags with which no file may be opened.
    """

    def load(offset: int) -> _Instruction:
        return (_LOAD, 0, 0, offset)

    def argument(index: int) -> _Instruction:
        return load(16 + 8 * index)  # the low half, little-endian: all that the kernel looks at in an int

    def give(verdict: int) -> _Instruction:
        return (_RETURN, 0, 0, verdict)

    def equal(value: int, then: int, otherwise: int) -> _Instruction:
        return (_JUMP_EQUAL, then, otherwise, value)

    def any_bit(bits: int, then: int, otherwise: int) -> _Instruction:
        return (_JUMP_ANY_BIT, then, otherwise, bits)

    program = [
        load(4),
        equal(_AUDIT_ARCH[machine], 1, 0),
        give(_KILL_PROCESS),  # a call by another architecture's numbers
        load(0),
        (_JUMP_GREATER_EQUAL, 0, 1, _FIRST_UNKNOWN),
        give(_NO_SUCH_CALL),
    ]
    for number in _numbers(_DENIED, machine).values():
        program += [equal(number, 0, 1), give(_DENY)]
    judged = _numbers(_JUDGED, machine)
    # Their arguments lie in memory, where a filter cannot see: libc falls back to the older call.
    for name in ("clone3", "openat2"):
        program += [equal(judged[name], 0, 1), give(_NO_SUCH_CALL)]
    program += [equal(judged["clone"], 0, 4), argument(0), any_bit(_CLONE_THREAD, 1, 0), give(_DENY), give(_ALLOW)]
    for name in ("kill", "tgkill"):
        program += [equal(judged[name], 0, 4), argument(0), equal(process, 1, 0), give(_DENY), give(_ALLOW)]
    program += [
        equal(judged["prlimit64"], 0, 5),
        argument(0),
        equal(0, 2, 0),
        equal(process, 1, 0),
        give(_DENY),
        give(_ALLOW),
    ]
    for name, position in (("open", 1), ("openat", 2)):
        if name in judged:
            program += [equal(judged[name], 0, 4), argument(position), any_bit(denied_opening, 0, 1)]
            program += [give(_DENY), give(_ALLOW)]
    return [*program, give(_ALLOW)]


def _filter_calls(is_for_device: bool) -> None:
    machine = platform.machine()
    if machine not in _AUDIT_ARCH or sys.byteorder != "little" or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"no system call numbers for {machine}")
    program = _filter(machine, os.getpid(), _MAKES_FILES if is_for_device else _OPENS_FOR_WRITING)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(code))
    _syscall(_SECCOMP[machine], _SET_MODE_FILTER, _TSYNC, ctypes.c_char_p(header))
