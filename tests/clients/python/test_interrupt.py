"""Ctrl+C ends what a synchronous client does at once with several requests, whatever the server does."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from grace_client import Document, GraceClient

UPLOAD = """
import sys
from grace_client import Document, GraceClient
GraceClient(sys.argv[1]).documents.upload("papers", (Document(str(i), "x") for i in range(1000)), batch_size=1)
"""


class Full(http.server.BaseHTTPRequestHandler):
    """A server that never has room, and always asks for another moment."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(429)
        self.send_header("retry-after", "20")
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        self.server.refused.release()  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def full() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        server.refused = threading.Semaphore(0)  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever).start()
        yield server
        server.shutdown()


def test_an_upload_that_waits_for_room_is_interrupted_and_the_program_ends(
    full: http.server.ThreadingHTTPServer,
) -> None:
    command = [sys.executable, "-c", UPLOAD, f"http://127.0.0.1:{full.server_port}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert full.refused.acquire(timeout=60)  # type: ignore[attr-defined]
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=15)
            assert time.monotonic() - began < 8.0
            assert "KeyboardInterrupt" in told
        finally:
            process.kill()


def test_who_leaves_an_upload_waits_for_nothing(full: http.server.ThreadingHTTPServer) -> None:
    """Here by an error of the source, while another batch waits for room."""

    def source() -> Iterator[Document]:
        yield from (Document(str(i), "x") for i in range(2))
        assert full.refused.acquire(timeout=60)  # type: ignore[attr-defined]
        raise LookupError("the source is broken")

    with closing(GraceClient(f"http://127.0.0.1:{full.server_port}")) as client:
        began = time.monotonic()
        with pytest.raises(LookupError):
            client.documents.upload("papers", source(), batch_size=1)
        assert time.monotonic() - began < 8.0


EMBED = """
import sys
from grace_client import GraceClient
GraceClient(sys.argv[1]).embed_each(["x", "y"], batch_size=1)
"""


def test_requests_that_are_not_answered_do_not_hold_an_interrupted_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-c", EMBED, f"http://127.0.0.1:{server.getsockname()[1]}"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                server.settimeout(60)
                connection, _ = server.accept()
                with connection:
                    assert connection.recv(1)  # a request is under way
                    process.send_signal(signal.SIGINT)
                    _, told = process.communicate(timeout=15)
                assert "KeyboardInterrupt" in told
            finally:
                process.kill()
