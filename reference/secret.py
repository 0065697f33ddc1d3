"""Where a secret is: an environment variable or a mounted file, never a document."""

import os
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from detectors.settings import Settings
from reference.errors import DriftlineError


class MissingSecret(DriftlineError):
    """A user name, password or key is not where the settings say, or is in a form that cannot be used."""

    exit_code: ClassVar[int] = 2


class Secret(Settings):
    """Where a secret is; the secret itself is read when it is needed, and never printed."""

    env: str | None = Field(default=None, min_length=1)
    """Name of an environment variable."""
    file: Path | None = None
    """A mounted file; one line break at its end does not count."""

    @model_validator(mode="after")
    def _is_in_one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            msg = "a secret is in one place: give env (the name of an environment variable) or file (a path)"
            raise ValueError(msg)
        return self

    def read(self, what: str) -> str:
        """The secret.

        Parameters
        ----------
        what
            What it is, for the message: the path of the setting.

        Raises
        ------
        MissingSecret
            The variable is not set, or the file cannot be read.
        """
        if self.env is not None:
            value = os.environ.get(self.env)
            if value is None:
                raise MissingSecret(f"the environment variable {self.env}, which holds {what}, is not set")
            return value
        assert self.file is not None
        return text_of(self.file, what).removesuffix("\n").removesuffix("\r")


def text_of(file: Path, what: str) -> str:
    """What a mounted file holds; raises MissingSecret when it cannot be read."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise MissingSecret(f"{file}, which holds {what}, cannot be read: {reason}") from error
