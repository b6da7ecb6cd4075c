"""The inside of the sandbox: run as a script by `general_sandbox`, never imported.

It cuts itself off, lowers its own limits and then executes the program in its own interpreter. What it says goes to the
pipe that was its standard output; the program's standard streams lead nowhere.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 0x4000, 0x40000
AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, SYS_MOUNT_SETATTR = -100, 0x8000, 1, 442
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
HIDDEN = ("/proc", "/run", "/tmp", "/dev/shm")


class MountAttributes(ctypes.Structure):
    """`struct mount_attr` of Linux 5.12."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def isolate(folder: str, file_mib: int) -> bool:
    """No network, no other processes, every file read-only but a small memory file system over `folder`.

    Where sockets and other processes can be met by their path, there is nothing to see.

    The calling process is to fork once: its child is the first of the new process namespace. False where the kernel
    does not grant it; what was granted until then stays.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID):
        return False
    try:
        # The same ids inside as outside, so that files keep their owners.
        for name, line in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    except OSError:
        return False
    read_only = MountAttributes(attr_set=MOUNT_ATTR_RDONLY)
    size = ctypes.c_size_t(ctypes.sizeof(read_only))

    def empty(place: str) -> int:
        room = f"size={16 * file_mib}m,mode=0700".encode()
        return int(libc.mount(b"tmpfs", place.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, room))

    hidden = [place for place in HIDDEN if os.path.isdir(place) and not sys.base_prefix.startswith(place + "/")]
    steps = (
        lambda: libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None),
        lambda: libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(read_only), size),
        lambda: any(map(empty, hidden)),
        lambda: os.makedirs(folder, exist_ok=True),
        lambda: empty(folder),
        # A second user namespace does not own these mounts, so nothing inside it can make them writable again.
        lambda: libc.unshare(CLONE_NEWUSER),
    )
    return not any(step() for step in steps)


def limit(request: dict[str, Any]) -> None:
    """Lower this process's limits for good."""
    mib = 2**20
    for which, most in (
        (resource.RLIMIT_CPU, request["cpu_s"]),
        (resource.RLIMIT_AS, request["memory_mib"] * mib),
        (resource.RLIMIT_FSIZE, request["file_mib"] * mib),
        (resource.RLIMIT_NOFILE, request["open_files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),  # the kernel lets root off; its processes end with the namespace
    ):
        resource.setrlimit(which, (most, most))


def execute(request: dict[str, Any], say: int) -> None:
    """Run the program and tell how it ended; does not return."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    token = request.pop("token").encode()
    os.chdir(request["folder"])
    limit(request)
    try:
        exec(compile(request["program"], "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        outcome = "left before its last line"
    except BaseException as error:  # noqa: BLE001 - whatever a program can raise is its own failure
        outcome = type(error).__name__
        with contextlib.suppress(BaseException):  # an error that cannot be printed is one as well
            outcome += f": {error}" if str(error) else ""
        outcome = outcome.replace("\n", " ")
    else:
        outcome = "passed"
    os.write(say, token + b" " + outcome.encode(errors="replace")[:400])
    os._exit(0)


def main() -> None:
    """Read the request, go inside, run it."""
    request = json.load(sys.stdin)
    say = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    isolated = isolate(request["folder"], request["file_mib"])
    os.write(say, f"{request['token']} {'isolated' if isolated else 'limited'}\n".encode())
    if not isolated:
        execute(request, say)
    child = os.fork()
    if child == 0:
        execute(request, say)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        # Passed on, so that the outside sees how it ended. No core of ours is wanted either.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main()
