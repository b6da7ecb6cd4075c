"""`grace-mcp`: the MCP server as a command."""

from __future__ import annotations

import argparse
import os
import sys

from grace_client._async.client import DEFAULT_URL, AsyncGraceClient


def main(arguments: list[str] | None = None) -> None:
    """Serve until the other side leaves."""
    chosen = parser().parse_args(arguments)
    try:
        from grace_client.mcp.server import make_server
    except ImportError as error:
        sys.exit(f"grace-mcp: {error}; in a checkout: pip install './clients/python[mcp]'")
    try:
        client = AsyncGraceClient(chosen.url, timeout=chosen.timeout)
    except ValueError as error:
        sys.exit(f"grace-mcp: {error}")
    server = make_server(client, writable=not chosen.read_only)
    if chosen.http:
        # Without a state of its own between requests, any number of these may stand behind one address.
        server.run("streamable-http", host=chosen.host, port=chosen.port, stateless_http=True)
    else:
        server.run("stdio")


def parser() -> argparse.ArgumentParser:
    """The flags. There is none for the key: command lines are seen by everyone on the machine."""
    found = argparse.ArgumentParser(
        "grace-mcp",
        description="Tools for agents on a running GRACE server: search, embed, explain, add_documents.",
        epilog="The key of the GRACE server, if it asks for one, is read from GRACE_CLIENT_API_KEY.",
    )
    url = os.environ.get("GRACE_CLIENT_URL") or DEFAULT_URL
    found.add_argument("--url", default=url, help=f"of the GRACE server [GRACE_CLIENT_URL; {DEFAULT_URL}]")
    found.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for an answer of it [600]")
    found.add_argument("--read-only", action="store_true", help="leave add_documents out")
    found.add_argument("--http", action="store_true", help="speak streamable HTTP at /mcp instead of stdio")
    found.add_argument("--host", default="127.0.0.1", help="to listen on with --http [127.0.0.1]")
    found.add_argument("--port", type=int, default=8765, help="to listen on with --http [8765]")
    return found


if __name__ == "__main__":
    main()
