"""`grace-index audit`: make a signing key, check audit lines and make their vectors again.

Apart from the other subcommands, since a data folder is opened only for `--index`: a running server holds it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from grace_server.audit import replay, signing
from grace_server.index.catalog import Catalog
from grace_server.index.edges import Edges
from grace_server.index.model import Model
from grace_server.index.sources import Columns, read_documents

UNSOUND = 3
PAGE = 500

OpenModel = Callable[[], AbstractAsyncContextManager[Model]]


def add_commands(commands: Any) -> None:
    """The subcommands, with `audit` set in their arguments."""
    about = "make a signing key; check the audit lines that /embed gives, and make their vectors again"
    group = commands.add_parser("audit", help=about, description=about)
    of_group = group.add_subparsers(required=True, metavar="ACTION")
    key = of_group.add_parser("key", help="write a new private key, and print the public one")
    key.add_argument("file", type=Path)
    key.set_defaults(audit=_key)
    about = "a line of JSON for each audit line; exit code 3 if one is not sound or there is none"
    verify = of_group.add_parser("verify", help=about)
    verify.add_argument("file", type=Path, help="audit lines; a line may have its text beside the record, as input")
    verify.add_argument("--key", type=Path, required=True, help="the public key, or the private one, in PEM")
    verify.add_argument("--texts", type=Path, help="where the texts are: whatever `build` reads")
    verify.add_argument("--text-field", action="append", help="as for `build`")
    verify.add_argument("--id-field", default="id", help="as for `build`")
    verify.add_argument("--index", help="an index whose documents are the texts; no server may be running on it")
    verify.add_argument("--signatures", action="store_true", help="check signatures only; no model is loaded")
    verify.add_argument("--write-again", action="store_true", help="also whether greedy rationales are still the same")
    verify.add_argument(
        "--tolerance",
        type=float,
        default=replay.TOLERANCE,
        help="distance that rounding explains; bfloat16: 0.05",
    )
    verify.set_defaults(audit=_verify)


def _key(arguments: argparse.Namespace, open_model: OpenModel, data_dir: Callable[[], Path]) -> int:
    print(signing.new_key(arguments.file).public, end="")
    print(
        f"the private key is in {arguments.file}: start the server with GRACE_AUDIT_KEY={arguments.file}",
        file=sys.stderr,
    )
    return 0


def _verify(arguments: argparse.Namespace, open_model: OpenModel, data_dir: Callable[[], Path]) -> int:
    key = signing.public_key(arguments.key)
    found = asyncio.run(_replay(arguments, key, nullcontext if arguments.signatures else open_model, data_dir))
    counted = Counter(finding.verdict for finding in found)
    print(", ".join(f"{number} {verdict}" for verdict, number in counted.items()) or "no lines", file=sys.stderr)
    good = [finding.signed if arguments.signatures else finding.verdict in replay.GOOD for finding in found]
    return 0 if good and all(good) else UNSOUND  # of no lines nothing was shown


async def _replay(
    arguments: argparse.Namespace,
    key: Any,
    open_model: OpenModel | type[nullcontext[None]],
    data_dir: Callable[[], Path],
) -> list[replay.Finding]:
    # As bytes, so that a line which is not UTF-8 is a finding of its own. splitlines() also splits at U+2028 in a text.
    lines = arguments.file.read_bytes().split(b"\n")
    texts = {signing.text_hash(text): text for text in _texts(arguments, data_dir)}
    found = []
    async with open_model() as model:
        checked = replay.replayed(
            lines, key, texts, model, tolerance=arguments.tolerance, write_again=arguments.write_again
        )
        async for finding in checked:
            print(json.dumps(asdict(finding), ensure_ascii=False))
            found.append(finding)
    return found


def _texts(arguments: argparse.Namespace, data_dir: Callable[[], Path]) -> Iterator[str]:
    if arguments.texts:
        columns = Columns(arguments.id_field, tuple(arguments.text_field or ("text",)))
        yield from (document["text"] for document in read_documents(arguments.texts, columns))
    if arguments.index:
        catalog = Catalog(data_dir(), Edges())
        try:
            yield from _texts_of(catalog, arguments.index)
        finally:
            catalog.close()


def _texts_of(catalog: Catalog, name: str) -> Iterable[str]:
    collection, after = catalog.get(name), ""
    while page := collection.page(after=after, limit=PAGE):
        yield from (document.text for document in page)
        after = page[-1].id


def run(
    arguments: argparse.Namespace, model_of: Callable[[str | None, str | None], Any], data_dir: Callable[[], Path]
) -> int:
    """Run the chosen action; its exit code."""
    code: int = arguments.audit(arguments, partial(model_of, arguments.model, arguments.engine), data_dir)
    return code
