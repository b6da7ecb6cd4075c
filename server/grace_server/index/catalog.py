"""All collections of a data folder: names, aliases, the lock. Synchronous.

    <data>/indexes/.lock                 held by the one process that has them open
    <data>/indexes/<id>/documents.sqlite the truth of a collection, with its name and its aliases
    <data>/indexes/<id>/checkpoints/     derived, may be deleted at any time
    <data>/indexes/{new,trash}-<id>/     half created or half deleted: removed at the next start

A folder per collection: a snapshot is one file, deleting is one rename, damage and writes stay apart. Names are never
part of a path, so none can lead out of the folder. One that cannot be opened is left alone, its name is not given away,
and the others are served.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from grace_server.index import reading
from grace_server.index.collection import Collection
from grace_server.index.durable import sync_folder
from grace_server.index.edges import Edges
from grace_server.index.errors import (
    Conflict,
    IndexNotFound,
    InvalidValue,
    StoreFull,
    StoreLocked,
    StoreRefused,
    StoreUnavailable,
)
from grace_server.index.settings import CollectionSettings
from grace_server.index.store import UNREADABLE
from grace_server.index.unopened import Unopened, is_damage

log = logging.getLogger("grace.index")

FOLDER = "indexes"
NEW, TRASH = "new-", "trash-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Catalog:
    """The collections of one data folder, opened by one process at a time.

    Raises:
        StoreLocked: another process has the folder.
        StoreUnavailable: the folder cannot be written, or a collection cannot be opened for no fault of its own.
    """

    def __init__(self, data_dir: Path, edges: Edges) -> None:
        self.folder = data_dir / FOLDER
        self.edges = edges
        # Not of one thread: whoever closes need not be the one who opened.
        self._lock = FileLock(self.folder / ".lock", thread_local=False)
        owner = self.folder / ".owner"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            owner.write_text(f"{os.getpid()}\n", encoding="utf-8")
        except Timeout as error:
            pid = owner.read_text(encoding="utf-8").strip() if owner.exists() else "unknown"
            raise StoreLocked(
                f"{data_dir} is in use by process {pid}: one process writes an index at a time. Stop that one, or ask "
                "it over HTTP"
            ) from error
        except OSError as error:
            self._lock.release()
            raise StoreUnavailable(f"{data_dir} cannot be the data folder: {error.strerror or error}") from error
        self._changing = threading.RLock()
        self._collections: dict[str, Collection] = {}  # by id of the folder
        self._unopened: dict[str, Unopened] = {}  # the same
        try:
            self._open_all()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Collection]:
        return iter(sorted(self._collections.values(), key=lambda collection: collection.name))

    @property
    def unopened(self) -> list[Unopened]:
        """Collections that are there and not served."""
        return list(self._unopened.values())

    def get(self, name: str) -> Collection:
        """The collection of a name or an alias.

        Raises:
            IndexNotFound: there is none.
            StoreDamaged: it cannot be opened, or one whose name cannot be read may be it.
        """
        if (found := self._find(name)) is None:
            raise IndexNotFound(f"there is no index {name[:80]!r}", param="index")
        return found

    def has(self, collection: Collection) -> bool:
        """Whether this very collection is still there and open."""
        return self._collections.get(collection.folder.name) is collection

    def create(
        self, name: str, settings: CollectionSettings, *, dimensions: int, fingerprint: str | None
    ) -> Collection:
        """A new, empty collection.

        Raises:
            InvalidValue: not a name.
            Conflict, StoreDamaged: the name is taken.
        """
        check_name(name)
        with self._changing:
            self.check_free(name)
            token = self.edges.new_id()
            half = self.folder / f"{NEW}{token}"
            try:
                with _on_disk():
                    Collection.create(
                        half,
                        name=name,
                        settings=settings,
                        dimensions=dimensions,
                        fingerprint=fingerprint,
                        edges=self.edges,
                    )
                    return self.adopt(half, name)
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise

    def check_free(self, name: str) -> None:
        """See that a new collection may have a name.

        Raises:
            Conflict: an index or an alias has it.
            StoreDamaged: one has it that cannot be opened, or one whose name cannot be read may have it.
        """
        if self._find(name) is not None:
            raise Conflict(f"there is an index or an alias {name!r} already", param="index")

    def adopt(self, half: Path, name: str) -> Collection:
        """Give a complete folder named `new-<id>` its place, and open it. It is there afterwards, or it is not.

        Killed within, the process leaves a complete collection, as if nobody had heard that it was made.

        Raises:
            Conflict, StoreDamaged: the name is taken.
        """
        with self._changing:
            self.check_free(name)
            sync_folder(half)
            folder = half.rename(self.folder / half.name.removeprefix(NEW))
            try:
                sync_folder(self.folder)
                collection = Collection.open(folder, self.edges)
            except BaseException as error:
                self._take_back(folder, name, error)
                raise
            self._collections[folder.name] = collection
            return collection

    def delete(self, name: str) -> Collection:
        """Delete a collection with all its documents. An alias is refused: deleting through one would surprise."""
        with self._changing:
            collection = self.get(name)
            if collection.name != name:
                raise Conflict(
                    f"{name!r} is an alias of {collection.name!r}: delete the index by its own name", param="index"
                )
            # Out of sight first: closing waits for writes, and whoever looks for another index must not meet this one.
            del self._collections[collection.folder.name]
            try:
                collection.close()
                with _on_disk():
                    trash = collection.folder.rename(self.folder / f"{TRASH}{collection.folder.name}")
                    sync_folder(self.folder)
            except BaseException:
                if collection.folder.exists():
                    self._open_again(collection)
                raise
            try:
                collection.index.discard()
            except (StoreUnavailable, StoreRefused) as error:
                log.warning("index %s is deleted, but not its vectors elsewhere: %s", name, error)
            shutil.rmtree(trash, ignore_errors=True)
            return collection

    def check_alias(self, alias: str, *, to_be: str | None = None) -> None:
        """See that an alias may be given, also where the index `to_be` is not made yet.

        Raises:
            InvalidValue: not a name.
            Conflict: it is the name of a collection.
        """
        check_name(alias)
        if alias == to_be or any(c.name == alias for c in (*self, *self.unopened)):
            raise Conflict(f"{alias!r} is the name of an index", param="alias")

    def set_alias(self, alias: str, target: str) -> Collection:
        """Let an alias name a collection from now on, whatever it named before.

        Raises:
            InvalidValue, Conflict: as `check_alias` says.
            IndexNotFound, StoreDamaged: as `get` says.
        """
        with self._changing:
            self.check_alias(alias)
            collection = self.get(target)
            claims = [stamp for c in self for stamp in c.aliases().values()]
            claims += [stamp for c in self.unopened for stamp in c.aliases.values()]
            # First the new claim, then the old one goes: in between both stand, and the higher stamp wins.
            collection.set_alias(alias, max(claims, default=0) + 1)
            others = [c for c in self if c is not collection and alias in c.aliases()]
            _end_switch(alias, collection, others)
            return collection

    def remove_alias(self, alias: str) -> None:
        """Give an alias up; one that is not there is passed over.

        Raises:
            StoreDamaged: a collection that cannot be opened has it too, and would come back under it.
        """
        with self._changing:
            if claims := next((one for one in self.unopened if alias in one.aliases), None):
                raise claims.refusal(alias)
            for collection in self:
                if alias in collection.aliases():
                    collection.set_alias(alias, None)

    def close(self) -> None:
        """Close every collection, then let the folder go. A second call does nothing."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            for collection in self._collections.values():
                stack.callback(collection.close)
        self._collections.clear()

    def _open_all(self) -> None:
        for folder in sorted(self.folder.iterdir()):
            if not folder.is_dir():
                continue
            if folder.name.startswith((NEW, TRASH)):
                shutil.rmtree(folder)
                continue
            try:
                self._collections[folder.name] = Collection.open(folder, self.edges)
            except Exception as error:
                if not is_damage(error):
                    log.error("the index in %s cannot be opened: %s", folder, error)
                    raise
                self._leave_alone(Unopened.by(error, folder))
        for name, number in Counter(collection.name for collection in self).items():
            if number > 1:
                self._keep_one([collection for collection in self if collection.name == name])
        self._end_switches()

    def _end_switches(self) -> None:
        """Remove claims that have lost, left by a switch that was cut off: each would come back with the winner's end.

        None is lost to an unopened collection, whose claims may be part of the damage, nor to one as high.
        """
        claims: defaultdict[str, list[tuple[int, Collection]]] = defaultdict(list)
        for collection in self:
            with contextlib.suppress(StoreUnavailable, *UNREADABLE):
                for alias, stamp in collection.aliases().items():
                    claims[alias].append((stamp, collection))
        for alias, claimed in claims.items():
            highest, winner = max(claimed, key=lambda claim: claim[0])
            if lost := [collection for stamp, collection in claimed if stamp < highest]:
                # Where that fails, as on a full disk, all stand as before, and the stamps decide.
                with contextlib.suppress(StoreUnavailable):
                    _end_switch(alias, winner, lost)

    def _keep_one(self, twins: list[Collection]) -> None:
        """Of collections of one name, serve the one that was written to; of several, the newest."""
        kept, *others = sorted(
            twins, key=lambda c: (c.store.read(reading.last_seq) > 0, c.created_at, c.folder.name), reverse=True
        )
        for other in others:
            aliases = other.aliases()
            del self._collections[other.folder.name]
            other.close()
            reason = f"that in {FOLDER}/{kept.folder.name} has the same name and is served: move one of them away"
            self._leave_alone(Unopened(other.folder, other.name, aliases, reason))

    def _take_back(self, folder: Path, name: str, error: BaseException) -> None:
        """Remove what nobody will be told of; where that fails too, keep its name."""
        try:
            trash = folder.rename(self.folder / f"{TRASH}{folder.name}")
        except OSError:
            self._leave_alone(Unopened.by(error, folder, name=name))
        else:
            shutil.rmtree(trash, ignore_errors=True)

    def _open_again(self, collection: Collection) -> None:
        """Open what could not be deleted; where that fails too, keep its name."""
        try:
            self._collections[collection.folder.name] = Collection.open(collection.folder, self.edges)
        except Exception as error:  # noqa: BLE001 - the caller is told why it could not be deleted
            self._leave_alone(Unopened.by(error, collection.folder, name=collection.name))

    def _leave_alone(self, one: Unopened) -> None:
        self._unopened[one.folder.name] = one
        log.error("index %s is left alone in %s: %s", one.name or "of a name unknown", one.folder, one.reason)

    def _find(self, name: str) -> Collection | None:
        opened = list(self._collections.values())
        # Names first, which no database need be asked for: the trouble of one is not another's.
        if own := next((collection for collection in opened if collection.name == name), None):
            return own
        claims: list[tuple[int, Collection | Unopened]] = []
        trouble: StoreUnavailable | None = None
        for collection in opened:
            try:
                stamp = collection.aliases().get(name)
            except StoreUnavailable as error:
                if self.has(collection):  # not deleted a moment ago
                    trouble = error
                continue
            if stamp is not None:
                claims.append((stamp, collection))
        unopened = self.unopened
        if named := next((one for one in unopened if one.name == name), None):
            raise named.refusal(name)
        claims += [(one.aliases[name], one) for one in unopened if name in one.aliases]
        if not claims:
            if trouble is not None:
                raise trouble
            if nameless := next((one for one in unopened if one.name is None), None):
                raise nameless.refusal(name)
            return None
        found = max(claims, key=lambda claim: claim[0])[1]
        if isinstance(found, Unopened):
            raise found.refusal(name)
        return found


def _end_switch(alias: str, winner: Collection, others: list[Collection]) -> None:
    """Leave an alias to one collection alone: its claim is durable before the others' go."""
    if others:
        winner.store.sync()
    for other in others:
        other.set_alias(alias, None)


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    """Give the file system's errors our names."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull("the disk (or the quota) is full") from error
        raise StoreUnavailable(f"the data folder cannot be used: {error.strerror or error}") from error


def check_name(name: str) -> str:
    """A collection's name: 1..64 letters, digits, `_`, `.`, `-`, beginning with a letter or digit.

    Raises:
        InvalidValue: it is not.
    """
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            "a name has 1..64 letters, digits, '_', '.', '-', and begins with a letter or digit", param="name"
        )
    return name
