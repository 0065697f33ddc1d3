import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from typing_extensions import override

from detectors.errors import NotApplicable
from detectors.learned import FittedModel, ModelDetector, Product, Scale, in_order

_REACH = 10.0
"""The network sees numbers up to so many standard deviations."""
_ROWS = 20_000
_BATCH = 200
_STEPS = 10_000
_PACE = 0.003
_HOLES = 0.1
_FILLS = 2
_SEED = 1


class Autoencoder(ModelDetector):
    """Flags an instance that a small neural network cannot reproduce.

    The network has three hidden layers of tanh units, the middle one narrow, and learns to return its input: so it must find what ties the
    columns together. Score: ``|z - f(z)|^2``, the squared distance of the row z (in standard deviations of the reference) to what the
    network f makes of it. Contribution of a number: its squared residual. Unit: a squared standard deviation.

    What is learnt from, up to 20,000 rows, is one half of the reference; the other half gives the threshold (see `threshold_of` in
    `detectors.learned`; with fewer than ``1 / falseAlarmRate`` rows in it, the largest score). Columns that are constant in the reference
    are left out. The network learns each row twice, once with a tenth of its numbers replaced by the mean (a denoising autoencoder),
    so that it can do without some. A missing or non-finite number is replaced by the mean, then twice by what the network makes of
    the row, and contributes 0. An instance without any number is not judged (NaN). The network sees numbers up to 10 standard
    deviations, and its output is bounded: far out, the score grows with the square; beyond a million standard deviations no more.

    Learning is scikit-learn's (Adam, mean squared error, a fixed seed); scoring needs numpy only.

    Parameters
    ----------
    bottleneck
        Units of the middle layer; by default a third of the columns, rounded up. The outer layers have twice as many units as there are
        columns, and at least 8.

    Notes
    -----
    Misleads when the reference has few rows (below some thousand it learns rows by heart, and the threshold becomes loose), and when
    the bottleneck is so wide that it can copy anything. What it calls strange is not easily explained further. Nearest neighbours:
    `pca_reconstruction`, the same with a plane: take that first, it learns in a moment and is as good on features that depend on one
    another linearly; `isolation_forest`.

    Examples
    --------
    >>> from detectors.base import FittingColumn
    >>> from detectors.statistics.block import Block
    >>> from detectors.statistics.column import ColumnSummary
    >>> angle = np.random.default_rng(1).uniform(0, 2 * np.pi, 1000)
    >>> rows = np.column_stack((np.cos(angle), np.sin(angle)))
    >>> columns = [FittingColumn(ColumnSummary(name, "numeric", 1000)) for name in ("east", "north")]
    >>> fitted = Autoencoder(bottleneck=1).fitted(columns, Autoencoder(bottleneck=1).learn(rows))
    >>> fitted.flag(Block(np.array([[0.6, 0.8], [4.0, 0.0]]), np.zeros((2, 2), bool))).rows.tolist()
    [1]

    References
    ----------
    Hawkins, He, Williams & Baxter (2002), Outlier detection using replicator neural networks, DaWaK. Vincent, Larochelle, Bengio & Manzagol
    (2008), Extracting and composing robust features with denoising autoencoders, ICML.
    """

    unit: ClassVar[str] = "squared standard deviations of the reference"

    name: Literal["autoencoder"] = "autoencoder"
    bottleneck: int | None = Field(None, ge=1, le=1000)

    @override
    def learnt(self, z: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.neural_network import MLPRegressor
        except ImportError:
            msg = f"{self.name!r} learns with scikit-learn, which is not installed: install driftline[learning]"
            raise NotApplicable(msg) from None
        z = np.clip(np.nan_to_num(z[:_ROWS], nan=0.0), -_REACH, _REACH)
        n, columns = z.shape
        whole = np.random.default_rng(_SEED).random(z.shape) >= _HOLES
        wide = max(2 * columns, 8)
        network = MLPRegressor(
            hidden_layer_sizes=(wide, self.bottleneck or -(-columns // 3), wide),
            activation="tanh",
            batch_size=min(_BATCH, 2 * n),
            learning_rate_init=_PACE,
            max_iter=min(max(_STEPS * _BATCH // (2 * n), 20), 1000),
            random_state=_SEED,
        )
        with warnings.catch_warnings():
            # It stops after so many steps, converged or not: the threshold is taken from what it became.
            warnings.simplefilter("ignore", ConvergenceWarning)
            twice = np.concatenate((z, z))
            network.fit(np.concatenate((z, z * whole)), twice if columns > 1 else twice[:, 0])
        layers = enumerate(zip(network.coefs_, network.intercepts_, strict=True))
        return {
            key: np.asarray(array, np.float64)
            for i, (weights, biases) in layers
            for key, array in ((f"weights{i}", weights), (f"biases{i}", biases))
        }

    @override
    def knowing(self, scale: Scale, threshold: float, model: Mapping[str, NDArray[np.float64]]) -> "FittedAutoencoder":
        layers = sum(key.startswith("weights") for key in model)
        weights = tuple((model[f"weights{i}"], model[f"biases{i}"]) for i in range(layers))
        return FittedAutoencoder(self.name, threshold, scale, weights)


@dataclass(frozen=True)
class FittedAutoencoder(FittedModel):
    """The weights of the network; all layers but the last are tanh's."""

    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    """Of each layer the (inputs, outputs) weights and the (outputs,) biases."""

    @override
    def quick(self, z: NDArray[np.float64], there: NDArray[np.bool_] | None) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self._squares(z.T, None if there is None else there.T, np.matmul).sum(axis=1)
        return scores

    @override
    def parts(self, z: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
        return self._squares(z, there, in_order)

    def _squares(
        self, z: NDArray[np.float64], there: NDArray[np.bool_] | None, product: Product
    ) -> NDArray[np.float64]:
        """(n, used columns) squared residuals; 0 where nothing is there."""
        if there is not None and not there.all():
            for _ in range(_FILLS):
                z = np.where(there, z, z - self._residual(z, product))
        squares = np.square(self._residual(z, product))
        if there is not None:
            squares *= there
        return squares

    def _residual(self, z: NDArray[np.float64], product: Product) -> NDArray[np.float64]:
        """(n, used columns) what the network does not reproduce."""
        signal = np.clip(z, -_REACH, _REACH)
        for i, (weights, biases) in enumerate(self.layers):
            signal = product(signal, weights)
            signal += biases
            if i + 1 < len(self.layers):
                np.tanh(signal, out=signal)
        return np.subtract(z, signal, out=signal)
