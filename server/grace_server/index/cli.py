"""`grace-index`: build, search, look after and move the indexes of a data folder, without a server.

A folder is used by one process at a time: stop the server first, or ask it over HTTP. Data goes to stdout, all else
to stderr. Exit codes: 0 done, 1 refused or failed (the message says why), 2 wrong usage, 3 `verify` found faults,
130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_settings import SettingsError

from grace.errors import GraceError
from grace.representation import Mode
from grace_server.audit import cli as audit_cli
from grace_server.errors import ApiError
from grace_server.index import commands
from grace_server.index.catalog import Catalog
from grace_server.index.collection import Collection
from grace_server.index.description import describe
from grace_server.index.edges import Edges
from grace_server.index.filters import compile_filter
from grace_server.index.migrate import Incomplete
from grace_server.index.searching import Method, Options
from grace_server.index.settings import Kind, Metric, Quantization, Sums
from grace_server.index.snapshot import restore_snapshot, take_snapshot
from grace_server.index.sources import Columns
from grace_server.index.verify import verify

FAILED, UNSOUND, INTERRUPTED = 1, 3, 130

ModelOf = Callable[[str | None, str | None], Any]


def main(argv: Sequence[str] | None = None, *, model_of: ModelOf = commands.model_of) -> None:
    """Entry point. Tests give a `model_of` of their own."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever the terminal's is: `build` reads what `export` wrote
    sys.exit(run(argv, model_of=model_of))


def run(argv: Sequence[str] | None, *, model_of: ModelOf) -> int:
    """Run one subcommand; its exit code."""
    arguments = parser().parse_args(argv)
    try:
        if hasattr(arguments, "audit"):
            return audit_cli.run(arguments, model_of, lambda: arguments.data_dir or _default_data_dir())
        catalog = Catalog(arguments.data_dir or _default_data_dir(), _edges(arguments.qdrant))
        try:
            code: int = arguments.run(catalog, arguments, partial(model_of, arguments.model, arguments.engine))
            return code
        finally:
            catalog.close()
    except ValidationError as error:  # of the settings: the values may be secrets
        for problem in error.errors(include_input=False, include_url=False):
            print(f"grace-index: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return FAILED
    except (ApiError, GraceError, OSError, SettingsError) as error:
        print(f"grace-index: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("grace-index: interrupted; what is written stays, and the same command goes on", file=sys.stderr)
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """All subcommands and their flags."""
    found = argparse.ArgumentParser("grace-index", description="Build, search and look after indexes without a server.")
    found.add_argument("--data-dir", type=Path, help="where the indexes live [GRACE_DATA_DIR]")
    found.add_argument("--model", help="checkpoint to embed with: a folder or a hub id [GRACE_MODEL]")
    found.add_argument("--engine", choices=("vllm", "transformers"), help="what runs the model [GRACE_ENGINE]")
    found.add_argument("--qdrant", metavar="URL", help="vectors are there, not in FAISS [GRACE_QDRANT_URL]")
    found.add_argument("--quiet", action="store_true", help="no progress bar")
    commands_of = found.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., int], help: str) -> argparse.ArgumentParser:
        sub = commands_of.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        if name != "list":
            sub.add_argument("--index", default="default", help="its name or an alias of it")
        return sub

    command("list", _list, "list the indexes, a line of JSON each")
    build = command("build", _build, "read documents from a file or a folder; run again, it resumes")
    build.add_argument("source", type=Path, help=".jsonl, .csv, .tsv (also .gz, .xz), .parquet, or a folder of texts")
    build.add_argument("--id-field", default="id")
    build.add_argument("--text-field", action="append", help="may be given several times; the texts are joined")
    build.add_argument("--number-field", action="append", default=[], help="a column of a CSV that holds numbers")
    build.add_argument("--vectors", action="store_true", help="every document brings its vector: no model is loaded")
    build.add_argument("--fingerprint", help="of the model that made those vectors")
    build.add_argument(
        "--ray", action="store_true", help="embed with GRACE_RAY_MAX_REPLICAS engines on a Ray cluster [RAY_ADDRESS]"
    )
    _add_settings(build)
    build.add_argument("--dimensions", type=int, help="of a new index: keep this many leading dimensions")
    search = command("search", _search, "search, a line of JSON for each hit")
    search.add_argument("query")
    search.add_argument("-k", type=_count, default=10, metavar="HITS", help="at most so many [10]")
    search.add_argument("--method", choices=get_args(Method), default="dense")
    search.add_argument("--filter", help="as JSON")
    export = command("export", _export, "write all documents as lines of JSON, which build reads")
    export.add_argument("--vectors", action="store_true", help="with the vectors of all documents")
    take = command("import", _build, "read what export --vectors wrote into an index, without a model")
    take.add_argument("source", type=Path)
    take.set_defaults(vectors=True, ray=False, id_field="id", text_field=None, number_field=[])
    take.add_argument("--fingerprint", help="of the model that made the vectors; by default the one they came with")
    _add_settings(take)
    check = command("verify", _verify, "check everything; exit code 3 if something is wrong")
    check.add_argument("--repair", action="store_true", help="make anew what is derived and wrong")
    command("compact", _compact, "rebuild without deleted rows, and give back disk space")
    snapshot = command("snapshot", _snapshot, "write one file that restore makes a new index of")
    snapshot.add_argument("file", type=Path)
    restore = command("restore", _restore, "make a new index, named by --index, of a snapshot")
    restore.add_argument("file", type=Path)
    restore.add_argument("--alias", help="let it name the new index")
    migrate = command("migrate", _migrate, "embed anew under --model into a new index, then switch an alias")
    migrate.add_argument("--to", required=True, help="name of the new index")
    migrate.add_argument("--alias", help="let it name the new index when all is done")
    _add_modes(migrate)
    audit_cli.add_commands(commands_of)
    return found


def _count(word: str) -> int:
    if not (word.isdecimal() and int(word)):
        raise argparse.ArgumentTypeError(f"a whole number above 0, not {word!r}")
    return int(word)


def _add_settings(command: argparse.ArgumentParser) -> None:
    for flag, choices in (("kind", Kind), ("metric", Metric), ("quantization", Quantization), ("sums", Sums)):
        command.add_argument(f"--{flag}", choices=get_args(choices), help="of a new index")
    _add_modes(command)


def _add_modes(command: argparse.ArgumentParser) -> None:
    for flag in ("document-mode", "query-mode"):
        command.add_argument(f"--{flag}", choices=get_args(Mode), help="of a new index; else the checkpoint's")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("kind", "metric", "quantization", "sums", "document_mode", "query_mode", "dimensions")
    return {name: value for name in names if (value := getattr(arguments, name, None)) is not None}


def _list(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    for collection in catalog:
        print(json.dumps(asdict(describe(collection))))
    return 0


def _build(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    on_ray = commands.settings_of(arguments.model, arguments.engine) if arguments.ray else None
    if on_ray is not None:
        if arguments.vectors or find_spec("ray") is None:
            reason = "--vectors needs no engine" if arguments.vectors else "in a checkout: pip install '.[ray]'"
            print(f"grace-index: --ray: {reason}", file=sys.stderr)
            return FAILED
        open_model = partial(commands.without_engine, on_ray)
    collection = asyncio.run(
        commands.build(
            catalog,
            arguments.index,
            arguments.source,
            columns=Columns(
                arguments.id_field, tuple(arguments.text_field or ("text",)), tuple(arguments.number_field)
            ),
            settings=_settings(arguments),
            open_model=None if arguments.vectors else open_model,
            fingerprint=arguments.fingerprint,
            quiet=arguments.quiet,
            embed=on_ray is None,
        )
    )
    if on_ray is not None:
        commands.embed_on_ray(collection, on_ray, quiet=arguments.quiet)
    _tell_counts(collection)
    return 0


def _tell_counts(collection: Collection) -> None:
    counts = describe(collection).counts
    waiting = f", {counts.pending} wait for a model" if counts.pending else ""
    print(f"{collection.name}: {counts.ready} documents ready, {counts.failed} failed{waiting}", file=sys.stderr)
    for document in collection.page(state="failed", limit=20):
        print(f"  {document.id}: {document.reason}", file=sys.stderr)


def _search(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    try:
        clause = None if arguments.filter is None else compile_filter(json.loads(arguments.filter))
    except (ValueError, RecursionError) as error:
        print(f"grace-index: --filter cannot be read: {error}", file=sys.stderr)
        return FAILED
    options = Options(k=arguments.k, method=arguments.method, clause=clause)
    [answer] = asyncio.run(commands.search(catalog, arguments.index, arguments.query, options, open_model))
    for hit in answer.hits:
        found = hit.document
        print(
            json.dumps(
                {"id": found.id, "score": hit.score, "text": found.text, "metadata": found.metadata},
                ensure_ascii=False,
            )
        )
    return 0


def _export(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    for line in commands.export(catalog, arguments.index, vectors=arguments.vectors):
        print(line)
    return 0


def _verify(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    report = verify(catalog.get(arguments.index), repair=arguments.repair)
    for complaint in report.truth:
        print(f"damaged: {complaint}", file=sys.stderr)
    for complaint in report.derived:
        print(f"{'repaired' if report.repaired else 'stale'}: {complaint}", file=sys.stderr)
    if report.truth or (report.derived and not report.repaired):
        return UNSOUND
    print("sound", file=sys.stderr)
    return 0


def _compact(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    catalog.get(arguments.index).compact()
    return 0


def _snapshot(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    manifest = take_snapshot(catalog.get(arguments.index), arguments.file, catalog.edges)
    print(json.dumps(asdict(manifest)))
    return 0


def _restore(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    if arguments.alias:
        catalog.check_alias(arguments.alias, to_be=arguments.index)
    restore_snapshot(catalog, arguments.file, arguments.index)
    if arguments.alias:
        catalog.set_alias(arguments.alias, arguments.index)
    return 0


def _migrate(catalog: Catalog, arguments: argparse.Namespace, open_model: commands.OpenModel) -> int:
    moving = commands.move(
        catalog,
        arguments.index,
        arguments.to,
        alias=arguments.alias,
        settings=_settings(arguments),
        open_model=open_model,
        quiet=arguments.quiet,
    )
    try:
        collection = asyncio.run(moving)
    except Incomplete:
        _tell_counts(catalog.get(arguments.to))
        raise
    _tell_counts(collection)
    return 0


def _edges(qdrant: str | None) -> Edges:
    from grace_server.settings import Settings  # reads the environment

    flags: dict[str, Any] = {} if qdrant is None else {"qdrant_url": qdrant}
    return Edges.of(Settings(**flags))


def _default_data_dir() -> Path:
    from grace_server.settings import Settings  # reads the environment, which --data-dir makes unnecessary

    flags: dict[str, Any] = {}
    return Settings(**flags).data_dir


if __name__ == "__main__":
    main()
