"""The baseline beside the model version that it belongs to, in an MLflow registry.

Tags of the registered model version say what its baseline is; the judgement is an artifact of the run that the version came from. All of it is
written anew by every refresh and says the same again when nothing changed, so what could not be written while the registry was away is made up for by
the next one. The store is the truth, the registry a copy: it never keeps a baseline from becoming current.

Credentials are MLflow's own environment variables (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`, `MLFLOW_TRACKING_TOKEN`).
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, model_validator

from detectors.settings import Duration, Settings

if TYPE_CHECKING:
    from reference.judge import Judgement

TAG = "driftline."
"""Before each of our tags."""
_ARTIFACTS = "driftline"
_RETRIES = "1"
_USER = re.compile(r"//[^/@\s]+@")
"""User and password in a URL."""


class MLflow(Settings):
    """Where a refresh records the baseline beside the model version."""

    tracking_uri: str = Field(min_length=1)
    """URL of the tracking server, or whatever else MLflow takes."""
    model: str | None = Field(default=None, min_length=1)
    """Name of the registered model. Default: the model's name."""
    version: str | None = Field(default=None, min_length=1)
    """Number of the model version. Default: `model.version`."""
    alias: str | None = Field(default=None, min_length=1)
    """Alias of the model version instead, for example `champion`: looked up by every refresh."""
    timeout: Duration = timedelta(seconds=10)
    """How long the server may take to answer one request; it is asked twice."""

    @model_validator(mode="after")
    def _one_version(self) -> Self:
        if self.version is not None and self.alias is not None:
            msg = f"version {self.version!r} and alias {self.alias!r} both say which model version is meant: remove one of them"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class Recorded:
    """What became of the record."""

    status: Literal["recorded", "pending"]
    """`pending`: the next refresh makes up for it."""
    text: str
    """For people: where it is, or why not."""


def record(
    settings: MLflow,
    judgement: "Judgement",
    *,
    current: str | None,
    store: str,
    sha256: str | None = None,
    outcome: str | None = None,
) -> Recorded:
    """Write down what a refresh came to; whatever keeps the registry from taking it is told and never raised.

    Parameters
    ----------
    judgement
        Of the version that was built.
    current
        The version that monitors now compare with.
    store
        Its URL; user and password in it are left out.
    sha256
        Of the baseline's file.
    outcome
        Of the refresh.

    Raises
    ------
    ModuleNotFoundError
        MLflow's client is not installed.
    """
    with _impatient(settings.timeout):
        from mlflow.tracking import MlflowClient

        name = settings.model or judgement.model
        try:
            client = MlflowClient(settings.tracking_uri, settings.tracking_uri)
            version = _version(client, name, settings, judgement)
            tags = {
                "baseline": current,
                "store": _without_secrets(store),
                "refresh.version": judgement.version,
                "refresh.decision": judgement.decision,
                "refresh.outcome": outcome,
                "refresh.rows": f"{judgement.rows}",
                "refresh.sha256": sha256,
            }
            for key, value in tags.items():
                if value is not None and version.tags.get(TAG + key) != value:
                    client.set_model_version_tag(name, version.version, TAG + key, value)
            where = f"{name} version {version.version} at {_without_secrets(settings.tracking_uri)}"
            if not version.run_id:
                return Recorded("recorded", f"{where}; it came from no run, so the judgement is no artifact")
            _keep(client, version.run_id, judgement)
        except Exception as error:  # noqa: BLE001 - a registry that is away, or says no, must not stop a refresh
            said = _USER.sub("//", (str(error).strip() or type(error).__name__).splitlines()[0])[:300]
            return Recorded("pending", f"MLflow at {_without_secrets(settings.tracking_uri)}: {said}")
        return Recorded("recorded", where)


def _version(client: Any, name: str, settings: MLflow, judgement: "Judgement") -> Any:
    if settings.alias is not None:
        return client.get_model_version_by_alias(name, settings.alias)
    return client.get_model_version(name, settings.version or judgement.model_version)


def _keep(client: Any, run: str, judgement: "Judgement") -> None:
    """The judgement as an artifact, unless it is there: of one version against one other it says the same every time."""
    file = f"{_ARTIFACTS}/judgement-{judgement.version}-{judgement.previous or 'first'}.json"
    if file not in {artifact.path for artifact in client.list_artifacts(run, _ARTIFACTS)}:
        client.log_text(run, judgement.to_json().decode(), file)


@contextlib.contextmanager
def _impatient(timeout: timedelta) -> Iterator[None]:
    """MLflow would try for minutes. What the user's environment says comes first."""
    ours = {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{max(round(timeout.total_seconds()), 1)}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": _RETRIES,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    unset = [name for name in ours if name not in os.environ]
    retried = logging.getLogger("urllib3.connectionpool")
    level = retried.level
    try:
        os.environ.update({name: ours[name] for name in unset})
        retried.setLevel(logging.ERROR)  # that it is asked twice is said once, by us
        yield
    finally:
        retried.setLevel(level)
        for name in unset:
            os.environ.pop(name, None)


def _without_secrets(url: str) -> str:
    """The URL without user, password and query.

    >>> _without_secrets("https://me:secret@host:5000/path?token=1"), _without_secrets("driftline-baselines")
    ('https://host:5000/path', 'driftline-baselines')
    """
    if "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
