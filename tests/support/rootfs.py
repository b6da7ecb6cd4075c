"""A stage of a Dockerfile, built without a container engine: Debian's base system in a folder, and chroot.

It needs root and debootstrap. Python's image is stood in for by Debian's own Python of the same minor version; vLLM's
image, by that with uv and the packages that the stage without a GPU has of vLLM.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.dockerfile import Stage

_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
_BASE_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PIP_BREAK_SYSTEM_PACKAGES": "1"}

# pip's configuration of this machine, as uv has it.
_UV = {"PIP_CERT": "SSL_CERT_FILE", "PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_FIND_LINKS": "UV_FIND_LINKS"}

# SIOCSIFFLAGS with IFF_UP and IFF_LOOPBACK: a new network namespace has its loopback down.
_LOOPBACK_UP = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x49))"


class Root:
    """A root file system that instructions are run in."""

    def __init__(self, folder: Path, context: Path, others: dict[str, Root]) -> None:
        self.folder, self._context, self._others = folder, context, others
        self.environment = dict(_BASE_ENVIRONMENT)
        self._cwd = "/"

    @staticmethod
    def debian(folder: Path) -> None:
        """Debian's minimal system with Python, as python:3.11-slim-bookworm has it."""
        command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        (folder / "usr/local/bin/pip").symlink_to("/usr/bin/pip")

    def as_vllms_image(self, built: Root, less: list[str]) -> None:
        """Give the system's Python what a built stage has in /opt/grace, less some packages, and uv."""
        (self.folder / "usr/lib/python3.11/EXTERNALLY-MANAGED").unlink()  # vLLM's image has no such mark
        source = built.folder / "opt/grace/lib/python3.11/site-packages"
        target = self.folder / "usr/local/lib/python3.11/dist-packages"
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", "--link", f"{source}/.", target], check=True)
        self.run(f"python3 -m pip uninstall --yes {shlex.join(less)}", mounts={}, extra={})
        self.run("python3 -m pip install --no-cache-dir uv", mounts={}, extra={})
        # vLLM for CPUs looks for it; vLLM's own image has another engine.
        self.run("apt-get update && apt-get install --yes libnuma1", mounts={}, extra={})

    def build(self, stage: Stage, arguments: dict[str, str]) -> None:
        """Run every instruction of a stage that changes the file system."""
        given = {name: arguments.get(name, value) for name, value in stage.arguments().items()}
        for instruction in stage.instructions:
            match instruction.word:
                case "WORKDIR":
                    self._cwd = instruction.rest
                    self._inside(self._cwd).mkdir(parents=True, exist_ok=True)
                case "COPY":
                    *sources, target = instruction.rest.split()
                    for source in sources:
                        self._copy(self._context / source, target)
                case "RUN":
                    mounts = {}
                    for mount in instruction.mounts():
                        other = self._others[mount["from"]].folder if "from" in mount else self._context
                        mounts[mount["target"]] = other / mount["source"].lstrip("/")
                    self.run(instruction.rest, mounts=mounts, extra=given)
                case "ENV":
                    for pair in shlex.split(instruction.rest):
                        name, _, value = pair.partition("=")
                        self.environment[name] = value.replace("$PATH", self.environment["PATH"])

    def run(self, command: str, *, mounts: dict[str, Path], extra: dict[str, str]) -> None:
        """One RUN, by a shell, with the network and pip's configuration of this machine."""
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        seen = dict(mounts)
        for value in pip.values():  # files and folders that the configuration names
            if value.startswith("/") and Path(value).exists():
                seen[value] = Path(value)
        for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs"):
            seen[name] = Path(name)
        uv = {theirs: pip[ours] for ours, theirs in _UV.items() if ours in pip}
        environment = self.environment | pip | uv | {name: value for name, value in extra.items() if value}
        shell = ["/bin/sh", "-c", f"cd {self._cwd} && {command}"]
        script = [*self._mounting(seen), self._chroot(shell, environment)]
        subprocess.run(["unshare", "--mount", "sh", "-ec", "\n".join(script)], check=True)

    def serve(self, command: list[str], health: list[str], request: list[str], *, user: str, data: Path) -> str:
        """Start a command as a user, read-only but for data and /tmp, with no network but itself, and stop it again.

        The health check is run until it passes, then the request; what is returned is all their output.
        """
        start, check, ask = (self._chroot(part, self.environment, user=user) for part in (command, health, request))
        script = [
            f"{sys.executable} -c {shlex.quote(_LOOPBACK_UP)}",
            f"mount --bind {self.folder} {self.folder}",
            *self._mounting({"/data": data}),
            f"mount -o remount,bind,ro {self.folder}",
            f"{start} & pid=$!",
            f"for second in $(seq 600); do {check} 2>/dev/null && break; kill -0 $pid; sleep 1; done",
            "echo healthy after $second checks",
            ask,
            "kill -TERM $pid",
            "wait $pid && echo stopped with 0",
        ]  # fmt: skip
        done = subprocess.run(
            ["unshare", "--mount", "--net", "sh", "-ec", "\n".join(script)],
            check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return done.stdout

    def _mounting(self, mounts: dict[str, Path]) -> list[str]:
        lines = [f"mount -t tmpfs tmpfs {self._inside('/tmp')}"]
        for target, source in mounts.items():
            inside = self._inside(target)
            if source.is_dir():
                lines += [f"mkdir -p {inside}", f"mount --bind {source} {inside}"]
            else:
                lines += [f"mkdir -p {inside.parent}", f"touch {inside}", f"mount --bind {source} {inside}"]
        # As a container has them; vLLM reads the processor's cores from /sys.
        lines += [f"mount --rbind /{name} {self._inside(f'/{name}')}" for name in ("proc", "sys", "dev")]
        return lines

    def _chroot(self, command: list[str], environment: dict[str, str], *, user: str = "0:0") -> str:
        variables = [f"{name}={value}" for name, value in environment.items()]
        return shlex.join(
            ["chroot", f"--userspec={user}", str(self.folder), "/usr/bin/env", "-i", *variables, *command]
        )

    def _copy(self, source: Path, target: str) -> None:
        inside = self._inside(target if target.startswith("/") else f"{self._cwd}/{target}")
        if source.is_dir():
            shutil.copytree(source, inside, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, inside)

    def _inside(self, path: str) -> Path:
        return self.folder / path.lstrip("/")
