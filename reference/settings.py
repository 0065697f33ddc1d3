"""The ``reference`` section of a ModelMonitor: where baselines are and how they are built."""

from pydantic import Field

from detectors.settings import Settings
from detectors.statistics.ruler import DEFAULT_RESOLUTION
from reference.data import Data
from reference.gate import Gate
from reference.registry import MLflow


class Reference(Settings):
    """Where baselines are kept and how one is built."""

    store: str = "driftline-baselines"
    """Directory, or any URL that fsspec knows (`s3://bucket/prefix`)."""
    version: str = "current"
    """The baseline to compare with: a version, or `current` for the newest published one."""
    resolution: int = Field(default=DEFAULT_RESOLUTION, ge=16, le=65_536)
    """Marks of a numeric column's ruler: a bin holds about 1/resolution of the reference."""
    raw_rows: int = Field(default=100_000, ge=0)
    """Up to so many rows the baseline keeps every value, so that exact tests stay exact."""
    sample_rows: int = Field(default=10_000, ge=1000, le=100_000)
    """Rows that the baseline keeps, chosen at random: for methods that compare rows, or whole columns of larger tables."""
    learning_rows: int = Field(default=100_000, ge=1000)
    """Rows that outlier models are learnt from, chosen at random. A fifth of them is kept back, for the models' scores on rows that they
    have not seen."""
    max_categories: int = Field(default=1000, ge=2)
    """Categories of a column that the baseline counts one by one, the most frequent ones; all others are one, `(other)`.

    A window counts the same ones exactly, and up to 1,000 others, whatever this says.
    """
    data: Data | None = None
    """Where the training table is: what `driftline reference refresh` builds from, and `build` without `--data`."""
    keep: int = Field(default=10, ge=1)
    """Versions that a refresh leaves in the store, besides those that are current, were current within the last day or are named."""
    gate: Gate = Gate()
    """What a new baseline must be like to become the current one by itself."""
    mlflow: MLflow | None = None
    """A registry that is told which baseline a model version has. Default: none."""
