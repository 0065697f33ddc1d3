"""Where baselines are kept: immutable versions, named by their content, and one pointer to the current one.

    <store>/<model>/<version>/baseline.bin    the baseline
    <store>/<model>/<version>/manifest.json   what it is, and the SHA-256 of the file beside it
    <store>/<model>/current                   the version that monitors compare with

A version is written whole before the pointer moves, and the pointer moves in one step, so a reader sees the old
baseline or the new one and never a part of either.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fsspec

from detectors.errors import SummaryFormatError
from reference.baseline import Baseline
from reference.errors import BaselineNotFound, CorruptBaseline
from reference.files import write_whole

CURRENT = "current"


@dataclass(frozen=True)
class Store:
    """The baselines under one directory or URL; any file system that fsspec knows."""

    url: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        place: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        return place

    def publish(self, baseline: Baseline) -> str:
        """Write a baseline and make it the current one; returns its version.

        Publishing the same content again changes nothing but the pointer.
        """
        version, data = baseline.version, baseline.to_bytes()
        manifest = {
            "model": baseline.model,
            "modelVersion": baseline.model_version,
            "version": version,
            "created": baseline.created,
            "rows": baseline.rows,
            "features": list(baseline.request),
            "predictions": list(baseline.response),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        if not self._exists(baseline.model, version, "manifest.json"):
            self._write(data, baseline.model, version, "baseline.bin")
            self._write(json.dumps(manifest, indent=2).encode() + b"\n", baseline.model, version, "manifest.json")
        self._write(version.encode() + b"\n", baseline.model, CURRENT)
        return version

    def current(self, model: str) -> str:
        """The version that monitors compare with; raises BaselineNotFound when none was published."""
        data = self._read(model, CURRENT)
        if data is None:
            msg = (
                f"no baseline of model {model!r} in {self.url}: "
                "build one with 'driftline reference build --config FILE --data TABLE'"
            )
            raise BaselineNotFound(msg)
        return data.decode().strip()

    def versions(self, model: str) -> list[dict[str, Any]]:
        """The manifests of all versions, oldest first."""
        fs, root = self._place
        folder = f"{root}/{model}"
        if not fs.isdir(folder):
            return []
        found = [
            self._read(model, entry["name"].rpartition("/")[2], "manifest.json") for entry in fs.ls(folder, detail=True)
        ]
        return sorted((json.loads(data) for data in found if data is not None), key=lambda m: m["created"])

    def load(self, model: str, version: str = CURRENT) -> Baseline:
        """One baseline, its hash checked.

        Raises
        ------
        BaselineNotFound
            Naming the versions there are.
        CorruptBaseline
            When the file is not the one that its manifest describes.
        """
        wanted = self.current(model) if version == CURRENT else version
        manifest, data = self._read(model, wanted, "manifest.json"), self._read(model, wanted, "baseline.bin")
        if manifest is None or data is None:
            known = [entry["version"] for entry in self.versions(model)]
            msg = f"no baseline {wanted!r} of model {model!r} in {self.url}: it has {known}"
            raise BaselineNotFound(msg)
        if hashlib.sha256(data).hexdigest() != json.loads(manifest)["sha256"]:
            msg = (
                f"baseline {wanted} of model {model!r} in {self.url} is not the file that was published: build it again"
            )
            raise CorruptBaseline(msg)
        try:
            return Baseline.from_bytes(data)
        except SummaryFormatError as error:
            msg = f"baseline {wanted} of model {model!r} in {self.url} cannot be read: {error}"
            raise CorruptBaseline(msg) from None

    def _path(self, *parts: str) -> str:
        return "/".join((self._place[1], *parts))

    def _exists(self, *parts: str) -> bool:
        return bool(self._place[0].exists(self._path(*parts)))

    def _read(self, *parts: str) -> bytes | None:
        try:
            return bytes(self._place[0].cat_file(self._path(*parts)))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None

    def _write(self, data: bytes, *parts: str) -> None:
        write_whole(self._place[0], self._path(*parts), data)
