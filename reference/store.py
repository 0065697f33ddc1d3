"""Where baselines are kept: immutable versions, named by their content, and one pointer to the current one.

    <store>/<model>/<version>/baseline.bin               the baseline
    <store>/<model>/<version>/manifest.json              what it is and where it came from; the SHA-256 of the file beside it
    <store>/<model>/<version>/beside/<filing>/...        what was filed with it: its judgement, reports; and their hashes
    <store>/<model>/<version>/used                       when it was last published
    <store>/<model>/promotions/00000007.json             what became current, when, by whom and why
    <store>/<model>/current                              the newest of these: the version that monitors compare with

A version is written whole, its manifest last, before the pointer moves, and the pointer moves in one step (`reference.promotions`), so a
reader sees the old baseline or the new one and never a part of either. A process can be killed at any moment: what it leaves is not read by
anybody, is completed by the next that publishes the same, or is removed by `gc`.

Everything that is read is checked against a hash: the baseline against its manifest's, the manifest of the current version against the
pointer's, every other document against its own.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from detectors.errors import SummaryFormatError
from reference.baseline import Baseline
from reference.errors import (
    BaselineError,
    BaselineNotFound,
    CorruptBaseline,
    PromotionConflict,
    StoreError,
)
from reference.files import PART, create_whole, read_whole, write_whole
from reference.promotions import (
    CURRENT,
    PROMOTIONS,
    REMOVAL,
    STEPS_BACK,
    Kind,
    Promotion,
    Promotions,
    rfc3339,
    sealed,
    someone,
    unsealed,
)

__all__ = ["CURRENT", "Filing", "Promotion", "Removed", "Store"]

GRACE = timedelta(days=1)
"""So long nothing is removed that was published or current: longer than any publisher takes."""
_BASELINE, _MANIFEST, _BESIDE, _USED = "baseline.bin", "manifest.json", "beside", "used"
_BATCH = 50
"""Versions that one announcement removes."""


@dataclass(frozen=True)
class Filing:
    """Files that were put beside a version together: a judgement with its numbers and its report."""

    id: str
    filed: str
    """RFC 3339."""
    decision: str
    """Of the judgement; empty when nothing was judged."""
    files: Mapping[str, str]
    """Name -> SHA-256."""
    digest: str = ""


@dataclass(frozen=True)
class Removed:
    """What `gc` removed, or would."""

    version: str
    """Or the path of a stray file."""
    what: str
    """`version`, or `debris`: what a publisher that was killed has left."""
    created: str
    """RFC 3339; empty for debris."""
    bytes: int


@dataclass(frozen=True)
class Store:
    """The baselines under one directory or URL; any file system that fsspec knows.

    Credentials are taken from the environment, as the driver of that file system does (`AWS_ACCESS_KEY_ID`, ...). Every method raises
    StoreError when the store cannot be reached.
    """

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        try:
            place: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            msg = f"reference.store: {self.url!r} is no place that can be opened here: {error}"
            raise StoreError(msg) from None
        return place

    def publish(
        self,
        baseline: Baseline,
        *,
        promote: bool = True,
        origin: Mapping[str, Any] | None = None,
        effective_rows: float | None = None,
        beside: Mapping[str, bytes] | None = None,
        decision: str = "",
        expected: str | None = None,
        by: str | None = None,
        why: str = "",
        forced: bool = False,
    ) -> str:
        """Write a baseline and, unless told otherwise, make it the current one; returns its version.

        Publishing the same content again writes nothing that is there: the manifest is that of the first time. What is damaged of it is mended.
        Several may publish at once.

        Parameters
        ----------
        promote
            Move the pointer; `expected`, `by`, `why` and `forced` as in `promote`.
        origin
            Where the rows came from, for the manifest.
        effective_rows
            Kish's effective size of a weighted table; None: the rows have no weights.
        beside
            Files to keep beside the version, name -> content, and the `decision` that they tell of: as in `file`.

        Raises
        ------
        PromotionConflict
            As `promote` does; also when the version is being removed at this moment.
        """
        model, version = baseline.model, baseline.version
        # Without the time it was made, the bytes follow from the content: two that publish at once write the same.
        data = replace(baseline, created="").to_bytes()
        manifest = {
            "model": model,
            "modelVersion": baseline.model_version,
            "version": version,
            "created": baseline.created,
            "rows": baseline.rows,
            "effectiveRows": effective_rows,
            "features": list(baseline.request),
            "predictions": list(baseline.response),
            "origin": dict(origin or {}),
            "publishedBy": by or someone(),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        with self._reached():
            records = self._promotions(model)
            while True:
                before = records.newest()
                self._not_being_removed(before, model, version)
                self._put(model, version, data, manifest, records)
                if beside or decision:
                    self._file(model, version, beside or {}, decision)
                newest = records.newest()
                if not self._removed_since(before, newest, records, version):
                    break
            # What is current stays so; when its manifest had to be written anew, the pointer learns of it.
            if promote or (newest is not None and newest.version == version):
                wanted = expected if promote else None
                self._moved(model, lambda _: version, wanted, "promotion", by, why, forced=forced, mended=True)
        return version

    def file(self, model: str, version: str, files: Mapping[str, bytes], *, decision: str = "") -> Filing:
        """Keep files beside a version, together: name -> content. The newest filing is the one that `beside` tells.

        The same files again with the same decision are one filing, then the newest.
        """
        with self._reached():
            self._manifest(model, version)
            self._file(model, version, files, decision)
        found = self.beside(model, version)
        assert found is not None
        return found

    def beside(self, model: str, version: str) -> Filing | None:
        """The newest filing beside a version; None when there is none."""
        with self._reached():
            names = self._listing(model, version, _BESIDE)
            return self._newest_filing(model, version, {name.split("/")[0] for name in names if "/" in name})

    def read_beside(self, model: str, version: str, name: str, filing: Filing | None = None) -> bytes:
        """One file of a filing (default: the newest), its hash checked.

        Raises
        ------
        BaselineNotFound
            When nothing of that name was filed; it tells what was.
        CorruptBaseline
            When it is not the file that was filed.
        """
        filing = filing or self.beside(model, version)
        if filing is None or name not in filing.files:
            known = [] if filing is None else sorted(filing.files)
            msg = f"no file {name!r} is beside baseline {version} of model {model!r} in {self.url}: there are {known}"
            raise BaselineNotFound(msg)
        with self._reached():
            data = self._read(model, version, _BESIDE, filing.id, name)
        if data is None or hashlib.sha256(data).hexdigest() != filing.files[name]:
            msg = (
                f"{name} beside baseline {version} of model {model!r} in {self.url} is not the file that was kept there"
            )
            raise CorruptBaseline(msg)
        return data

    def promote(
        self,
        model: str,
        version: str,
        *,
        expected: str | None = None,
        by: str | None = None,
        why: str = "",
        forced: bool = False,
    ) -> Promotion:
        """Make a version the current one; nothing happens when it is.

        Parameters
        ----------
        expected
            The version that has to be current until then: the one that the new one was compared with. Empty: there must be none. None:
            whichever is, and of several that promote at once the last stands.
        by
            Who; default `DRIFTLINE_USER`, or the name of the account.
        why, forced
            Are recorded.

        Raises
        ------
        BaselineNotFound
            When there is no such version.
        CorruptBaseline
            When it is not as it was published: that does not become current.
        PromotionConflict
            When another than the expected one is current, or the version is being removed.
        """
        with self._reached():
            return self._moved(model, lambda _: version, expected, "promotion", by, why, forced=forced)

    def rollback(self, model: str, to: str | None = None, *, by: str | None = None, why: str = "") -> Promotion:
        """Make current again what was before: one step back, and another one the next time; or as many as lead to `to`.

        Raises
        ------
        BaselineNotFound
            When nothing was current before, or it was removed since.
        """

        def target(newest: Promotion | None) -> str:
            back = () if newest is None else newest.back
            if to is not None:
                return to
            if not back:
                msg = f"nothing was current before the baseline of model {model!r} in {self.url}: there is nothing to go back to"
                raise BaselineNotFound(msg)
            return back[0]

        with self._reached():
            return self._moved(model, target, None, "rollback", by, why, forced=False)

    def current(self, model: str) -> str:
        """The version that monitors compare with: one read of one small file.

        Raises
        ------
        BaselineNotFound
            When none was published.
        CorruptBaseline
            When the pointer is not what was written.
        """
        with self._reached():
            return self._pointer(model).version

    def latest(self, model: str) -> str | None:
        """The current version as publishers see it, by the newest record; None before the first.

        What monitors read is put right when it is damaged, or when whoever made the record was killed before it wrote the copy.
        """
        with self._reached():
            records = self._promotions(model)
            newest = records.newest()
            if newest is None:
                return None
            records.show(newest)
            return newest.version or None

    def left(self, model: str) -> set[str]:
        """The versions that the latest rollbacks led away from."""
        with self._reached():
            moves = (record for record in self._promotions(model).history() if record.kind != "removal")
            return {record.replaced for record in takewhile(lambda record: record.kind == "rollback", moves)}

    def history(self, model: str, limit: int | None = None) -> list[Promotion]:
        """All promotions, rollbacks and removals, newest first, or so many; CorruptBaseline when one of them was changed."""
        with self._reached():
            return list(islice(self._promotions(model).history(), limit))

    def versions(self, model: str) -> list[dict[str, Any]]:
        """The manifests of all versions, oldest first, each with the `decision` of its newest filing.

        One whose manifest is damaged has only its `version`, and says what is wrong in `damaged`.
        """
        with self._reached():
            found = []
            for version, files in self._folders(model).items():
                if _MANIFEST not in files:
                    continue
                try:
                    manifest = self._manifest(model, version)
                    filings = {
                        parts[1] for name in files if (parts := name.split("/"))[0] == _BESIDE and len(parts) > 2
                    }
                    filing = self._newest_filing(model, version, filings)
                except CorruptBaseline as error:
                    found.append({"version": version, "created": "", "damaged": str(error)})
                    continue
                except BaselineNotFound:  # removed while we looked
                    continue
                found.append({**manifest, "decision": "" if filing is None else filing.decision})
        return sorted(found, key=lambda manifest: (manifest["created"], manifest["version"]))

    def manifest(self, model: str, version: str = CURRENT) -> dict[str, Any]:
        """What a version is and where it came from; raises as `load` does."""
        with self._reached():
            if version == CURRENT:
                pointer = self._pointer(model)
                return self._promoted_manifest(model, pointer.version, pointer)
            return self._promoted_manifest(model, version, self._promotions(model).shown_or_none())

    def load(self, model: str, version: str = CURRENT) -> Baseline:
        """One baseline, its hash checked, and that of its manifest.

        Raises
        ------
        BaselineNotFound
            Naming the versions there are.
        CorruptBaseline
            When the file is not the one that its manifest describes, or the manifest not the one that was promoted.
        """
        with self._reached():
            if version == CURRENT:
                pointer = self._pointer(model)
                return self._checked(model, pointer.version, pointer)[1]
            return self._checked(model, version, self._promotions(model).shown_or_none())[1]

    def gc(
        self,
        model: str,
        *,
        keep: int,
        grace: timedelta = GRACE,
        named: Iterable[str] = (),
        dry_run: bool = False,
        by: str | None = None,
    ) -> list[Removed]:
        """Remove old versions, and what killed publishers have left; tells what.

        The current version stays, the one that a rollback would lead to, the `keep` newest, and whatever was published or current within the
        grace period. Records of promotions are never removed.

        Parameters
        ----------
        keep
            Versions to keep, the current one among them.
        grace
            Must be longer than a publisher takes from its first file to its last, and than clocks differ.
        named
            Versions that a ModelMonitor names: they stay.
        """
        removed: list[Removed] = []
        with self._reached():
            records = self._promotions(model)
            while True:
                newest = records.newest()
                batch = self._removable(model, newest, keep, grace, frozenset(named))
                if dry_run:
                    return batch + self._strays(model, grace)
                batch = [each for each in batch if each not in removed][:_BATCH]
                if not batch:
                    if newest is not None:
                        records.show(newest)
                    for stray in (strays := self._strays(model, grace)):
                        with suppress(FileNotFoundError):
                            self._place[0].rm_file(self._path(model, stray.version))
                    return removed + strays
                claimed = records.claim(newest, self._removal(newest, [each.version for each in batch], by))
                if claimed is None:
                    continue  # somebody promoted meanwhile: look again
                until = datetime.fromisoformat(claimed.when) + REMOVAL / 2
                # A publisher that began before the announcement has left a stamp by now, and stops at the announcement otherwise.
                still = {each.version for each in self._removable(model, claimed, keep, grace, frozenset(named))}
                for each in batch:
                    if datetime.now(UTC) > until:
                        break
                    if each.version in still:
                        self._remove(model, each.version)
                        removed.append(each)
                self._announce_end(records, claimed, [each.version for each in batch])

    def _put(self, model: str, version: str, data: bytes, manifest: dict[str, Any], records: Promotions) -> None:
        """Write a version, or what is missing or damaged of it. The stamp comes first: from then on `gc` keeps it."""
        self._write(rfc3339(datetime.now(UTC)).encode() + b"\n", model, version, _USED)
        known = self._sound_manifest(model, version, records.shown_or_none(), manifest["sha256"])
        if known is None or self._read(model, version, _BASELINE) != data:
            self._write(data, model, version, _BASELINE)
        if known is not None:
            return
        made = create_whole(self._place[0], self._path(model, version, _MANIFEST), sealed(manifest))
        # Else another has just written one, or the one that is there is damaged.
        if not made and self._sound_manifest(model, version, records.shown_or_none(), manifest["sha256"]) is None:
            self._write(sealed(manifest), model, version, _MANIFEST)

    def _file(self, model: str, version: str, files: Mapping[str, bytes], decision: str) -> None:
        for name in files:
            if not name or "/" in name or name in {".", "..", _MANIFEST}:
                msg = f"a file beside a version cannot be called {name!r}: use a name without '/' other than {_MANIFEST!r}"
                raise ValueError(msg)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
        filing = hashlib.sha256(json.dumps([decision, hashes]).encode()).hexdigest()[:12]
        for name, data in files.items():
            self._write(data, model, version, _BESIDE, filing, name)
        document = {"id": filing, "filed": rfc3339(datetime.now(UTC)), "decision": decision, "files": hashes}
        self._write(sealed(document), model, version, _BESIDE, filing, _MANIFEST)

    @staticmethod
    def _removed_since(before: Promotion | None, newest: Promotion | None, records: Promotions, version: str) -> bool:
        """Whether a removal that is over by now has taken the version away while it was being written."""
        number = 0 if before is None else before.number
        if newest is None or newest.number == number:
            return False
        return any(
            version in record.removing for record in takewhile(lambda record: record.number > number, records.history())
        )

    def _removable(
        self, model: str, newest: Promotion | None, keep: int, grace: timedelta, named: frozenset[str]
    ) -> list[Removed]:
        """What `gc` may remove, oldest first."""
        now = datetime.now(UTC)
        records = self._promotions(model)
        stays = set(named)
        if newest is not None:
            stays |= {newest.version, *newest.back[:1]}
            for record in records.history():
                if record.kind == "removal":
                    continue
                stays.add(record.version)
                if now - datetime.fromisoformat(record.when) > grace:
                    break
                stays.add(record.replaced)
        folders = self._folders(model)
        complete: list[tuple[str, str]] = []
        for version, files in folders.items():
            if _MANIFEST in files:
                try:
                    complete.append((str(self._manifest(model, version)["created"]), version))
                except CorruptBaseline:
                    complete.append(("", version))
                except BaselineNotFound:  # another is removing it
                    continue
        kept = [version for _, version in sorted(complete, reverse=True)]
        kept = sorted(kept, key=lambda version: newest is None or version != newest.version)[: max(keep, 0)]
        found = []
        made = {version: created for created, version in complete}
        for version, files in folders.items():
            if version in stays or version in kept:
                continue
            if any(now - self._modified(model, version, name) <= grace for name in files):
                continue
            what = "version" if version in made else "debris"
            found.append(Removed(version, what, made.get(version, ""), sum(files.values())))
        return sorted(found, key=lambda each: (each.created, each.version))

    def _strays(self, model: str, grace: timedelta) -> list[Removed]:
        """Files outside of what `_removable` tells that a killed writer left: parts, and filings without their manifest."""
        now = datetime.now(UTC)
        files = self._listing(model)
        found = []
        for path, size in files.items():
            parts = path.split("/")
            unfinished = len(parts) == 4 and parts[1] == _BESIDE and "/".join((*parts[:3], _MANIFEST)) not in files
            whole = len(parts) < 2 or parts[0] == PROMOTIONS or f"{parts[0]}/{_MANIFEST}" in files
            if whole and (unfinished or path.endswith(PART)) and now - self._modified(model, path) > grace:
                found.append(Removed(path, "debris", "", size))
        return found

    def _removal(self, newest: Promotion | None, versions: list[str], by: str | None) -> Promotion:
        now = datetime.now(UTC)
        until = rfc3339(now + REMOVAL)
        base = newest or Promotion(0, "removal", "", "", "", "", "")
        return replace(
            base,
            kind="removal",
            replaced=base.version,
            when=rfc3339(now),
            by=by or someone(),
            why="gc",
            forced=False,
            removing={**base.binding(now), **dict.fromkeys(versions, until)},
        )

    def _announce_end(self, records: Promotions, claimed: Promotion, versions: list[str]) -> None:
        """Say that the removal is over, so that the same content can be published again at once."""
        last: Promotion | None = claimed
        while last is not None:
            now = datetime.now(UTC)
            open_yet = {version: until for version, until in last.binding(now).items() if version not in versions}
            if open_yet == last.binding(now):
                return
            ended = replace(last, kind="removal", replaced=last.version, when=rfc3339(now), removing=open_yet)
            if records.claim(last, ended) is not None:
                return
            last = records.newest()

    def _remove(self, model: str, version: str) -> None:
        """Its manifest first: without one, the rest is debris."""
        fs, _ = self._place
        for name in sorted(self._listing(model, version), key=lambda name: name != _MANIFEST):
            with suppress(FileNotFoundError):
                fs.rm_file(self._path(model, version, name))
        if isinstance(fs, LocalFileSystem):
            root = Path(self._path(model, version))
            for folder in (*sorted(root.rglob("*"), reverse=True), root):
                with suppress(OSError):  # not empty: somebody publishes it anew
                    folder.rmdir()

    def _moved(
        self,
        model: str,
        target: Callable[[Promotion | None], str],
        expected: str | None,
        kind: Kind,
        by: str | None,
        why: str,
        *,
        forced: bool,
        mended: bool = False,
    ) -> Promotion:
        """Move the pointer: read, check, claim; again when another was faster and that does not matter.

        With `mended` the manifest was written by this process, so another one than the pointer names is right.
        """
        records = self._promotions(model)
        while True:
            newest = records.newest()
            version = target(newest)
            was = "" if newest is None else newest.version
            manifest, _ = self._checked(model, version, None if mended else newest)
            if newest is not None and was == version and newest.manifest == manifest["digest"]:
                records.show(newest)
                return newest
            if expected is not None and was not in {expected, version}:
                msg = (
                    f"baseline {version} of model {model!r} was not promoted in {self.url}: {was or 'none'} is current, "
                    f"{expected or 'none'} was expected, so another was faster: compare it with the current one and try again"
                )
                raise PromotionConflict(msg)
            self._not_being_removed(newest, model, version)
            now = datetime.now(UTC)
            filing = self.beside(model, version)
            wanted = Promotion(
                number=0,
                kind=kind,
                version=version,
                manifest=manifest["digest"],
                replaced=was,
                when=rfc3339(now),
                by=by or someone(),
                why=why,
                forced=forced,
                judgement="" if filing is None else filing.id,
                back=_back(newest, version, kind),
                removing={} if newest is None else newest.binding(now),
            )
            made = records.claim(newest, wanted)
            if made is not None:
                return made

    def _not_being_removed(self, newest: Promotion | None, model: str, version: str) -> None:
        until = None if newest is None else newest.binding(datetime.now(UTC)).get(version)
        if until is not None:
            msg = f"baseline {version} of model {model!r} in {self.url} is being removed, until {until} at the latest: try again then"
            raise PromotionConflict(msg)

    def _checked(self, model: str, version: str, pointer: Promotion | None) -> tuple[dict[str, Any], Baseline]:
        manifest = self._manifest(model, version)
        if pointer is not None and pointer.version == version and pointer.manifest != manifest["digest"]:
            msg = (
                f"the manifest of baseline {version} of model {model!r} in {self.url} is not the one that was promoted"
            )
            raise CorruptBaseline(msg)
        data = self._read(model, version, _BASELINE)
        if data is None or hashlib.sha256(data).hexdigest() != manifest["sha256"]:
            msg = f"baseline {version} of model {model!r} in {self.url} is not the file that was published: build it again"
            raise CorruptBaseline(msg)
        try:
            return manifest, replace(Baseline.from_bytes(data), created=manifest["created"])
        except SummaryFormatError as error:
            msg = f"baseline {version} of model {model!r} in {self.url} cannot be read: {error}"
            raise CorruptBaseline(msg) from None

    def _manifest(self, model: str, version: str) -> dict[str, Any]:
        data = self._read(model, version, _MANIFEST)
        if data is None:
            known = [name for name, files in self._folders(model).items() if _MANIFEST in files]
            msg = f"no baseline {version!r} of model {model!r} in {self.url}: it has {known}"
            raise BaselineNotFound(msg)
        return self._unsealed_manifest(data, model, version)

    def _promoted_manifest(self, model: str, version: str, pointer: Promotion | None) -> dict[str, Any]:
        """The manifest, which for the current version is the one that the pointer names."""
        manifest = self._manifest(model, version)
        if pointer is not None and pointer.version == version and pointer.manifest != manifest["digest"]:
            msg = (
                f"the manifest of baseline {version} of model {model!r} in {self.url} is not the one that was promoted: "
                "build it again, or roll back"
            )
            raise CorruptBaseline(msg)
        return manifest

    def _sound_manifest(
        self, model: str, version: str, pointer: Promotion | None, sha256: str
    ) -> dict[str, Any] | None:
        """The manifest if there is one that tells of these bytes."""
        if self._read(model, version, _MANIFEST) is None:
            return None
        try:
            manifest = self._promoted_manifest(model, version, pointer)
        except BaselineError:
            return None
        return manifest if manifest["sha256"] == sha256 else None

    def _pointer(self, model: str) -> Promotion:
        pointer = self._promotions(model).current()
        if pointer is None or not pointer.version:
            msg = (
                f"no baseline of model {model!r} in {self.url}: "
                "build one with 'driftline reference build --config FILE --data TABLE'"
            )
            raise BaselineNotFound(msg)
        return pointer

    def _unsealed_manifest(self, data: bytes, model: str, version: str) -> dict[str, Any]:
        what = f"the manifest of baseline {version} of model {model!r} in {self.url}"
        manifest = unsealed(data, what)
        if (manifest.get("model"), manifest.get("version")) != (model, version):
            msg = f"{what} is that of another one: {manifest.get('version')} of model {manifest.get('model')!r}"
            raise CorruptBaseline(msg)
        return manifest

    def _newest_filing(self, model: str, version: str, ids: Iterable[str]) -> Filing | None:
        filings = []
        for filing in ids:
            data = self._read(model, version, _BESIDE, filing, _MANIFEST)
            if data is not None:  # else its writer was killed, or is still at it
                what = f"what was filed as {filing} beside baseline {version} of model {model!r} in {self.url}"
                filings.append(Filing(**unsealed(data, what)))
        return max(filings, key=lambda each: (each.filed, each.id), default=None)

    def _promotions(self, model: str) -> Promotions:
        return Promotions(self._place[0], self._path(model), f"{self.url.rstrip('/')}/{model}")

    def _folders(self, model: str) -> dict[str, dict[str, int]]:
        """Version -> its files, relative to its folder, and their bytes; oldest name first."""
        folders: dict[str, dict[str, int]] = {}
        for path, size in self._listing(model).items():
            version, _, name = path.partition("/")
            if name and version != PROMOTIONS:
                folders.setdefault(version, {})[name] = size
        return folders

    def _listing(self, *parts: str) -> dict[str, int]:
        """All files under a folder, relative to it, and their bytes."""
        fs, _ = self._place
        folder = self._path(*parts)
        fs.invalidate_cache()
        found = fs.find(folder, detail=True)
        return {
            path[len(folder) + 1 :]: int(entry.get("size") or 0)
            for path, entry in sorted(found.items())
            if path.startswith(f"{folder}/")
        }

    def _modified(self, *parts: str) -> datetime:
        """When a file was last written, by the store's clock; now when it is gone, which is as recent as can be."""
        try:
            moment: datetime = self._place[0].modified(self._path(*parts))
        except FileNotFoundError:
            return datetime.now(UTC)
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

    def _path(self, *parts: str) -> str:
        return "/".join((self._place[1], *parts))

    def _read(self, *parts: str) -> bytes | None:
        return read_whole(self._place[0], self._path(*parts))

    def _write(self, data: bytes, *parts: str) -> None:
        write_whole(self._place[0], self._path(*parts), data)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Whatever a driver raises becomes an error that names the store; drivers have classes of their own."""
        try:
            yield
        except (BaselineError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError):
            raise  # ours, or a mistake of ours
        except Exception as error:
            msg = f"the store {self.url}: {type(error).__name__}: {error}"
            raise StoreError(msg) from error


def _back(newest: Promotion | None, version: str, kind: Kind) -> tuple[str, ...]:
    """Where rollbacks lead once this version is current."""
    if newest is None or not newest.version:
        return ()
    line = newest.back
    if version == newest.version:
        return line
    if kind == "rollback" and version in line:
        return line[line.index(version) + 1 :]
    return (newest.version, *line)[:STEPS_BACK]
