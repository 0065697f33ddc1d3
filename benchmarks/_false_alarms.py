"""False alarms on clean data: how many there are, beside how many chance allows when the nominal rate is the true one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import fft, stats

from detectors.base import DriftDetector, FittingColumn, LearnedOutlierDetector
from detectors.drift import DRIFT
from detectors.multivariate import MULTIVARIATE
from detectors.multivariate.base import Joint
from detectors.outliers import LEARNED, OUTLIERS
from detectors.statistics.block import Block
from detectors.statistics.column import ColumnSummary
from detectors.statistics.ruler import Ruler
from detectors.statistics.table import EXACT_ROWS, Plan, summarise
from detectors.verdict import adjusted

LEVELS = (0.05, 0.001)
CONFIDENCE = 0.999
"""Of each interval: dozens of them are looked at, and hardly one should miss by chance."""
WINDOW = (200, 500)
"""Rows of a window; each has another number of them."""
COLUMNS = 10
"""Columns of a table: independent of one another, so each is a window of its own."""

Pair = tuple[ColumnSummary, ColumnSummary]
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]


class Tell(Protocol):
    """Told how much work was done, for the progress bar."""

    def __call__(self, advance: float, /) -> None: ...


@dataclass(slots=True)
class Count:
    """Alarms of one method at each level."""

    method: str
    data: str
    why: str = ""
    """Why the nominal rate is not promised; empty: it is."""
    windows: int = 0
    alarms: list[int] = field(default_factory=lambda: [0] * len(LEVELS))

    def add(self, alarms: Iterable[bool]) -> None:
        """One more window."""
        self.windows += 1
        self.alarms = [count + bool(alarm) for count, alarm in zip(self.alarms, alarms, strict=True)]

    def rows(self) -> list[dict[str, Any]]:
        """A row of the table for each level."""
        return [
            judged(self.method, self.data, level, self.windows, count, binomial(self.windows, level), self.why)
            for level, count in zip(LEVELS, self.alarms, strict=True)
        ]


def judged(
    method: str, data: str, nominal: float, trials: int, alarms: int, allowed: tuple[int, int], why: str = ""
) -> dict[str, Any]:
    """A row of a table: what was counted, what was allowed, and whether it is within."""
    verdict = "below" if alarms < allowed[0] else "above" if alarms > allowed[1] else "within"
    return {
        "method": method,
        "data": data,
        "nominal": nominal,
        "trials": trials,
        "alarms": alarms,
        "allowed": list(allowed),
        "rate": rounded(alarms / trials),
        "verdict": verdict,
        "promised": not why,
        "why": why,
    }


def rounded(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")


def binomial(trials: int, rate: float) -> tuple[int, int]:
    """The counts that chance allows at this rate.

    A count is among them just when the exact (Clopper-Pearson) interval around it holds the rate.
    """
    low, high = stats.binom.interval(CONFIDENCE, trials, rate)
    return int(low), int(high)


def beta_binomial(trials: int, a: float, b: float, references: int) -> tuple[int, int]:
    """The counts that chance allows when each reference has a rate of its own, from Beta(a, b).

    The count of one reference is beta-binomial; that of several independent ones is their sum, here by convolution.

    Parameters
    ----------
    trials
        With each reference.
    """
    one = stats.betabinom.pmf(np.arange(trials + 1), trials, a, b)
    size = fft.next_fast_len(trials * references + 1, real=True)
    total = np.cumsum(fft.irfft(fft.rfft(one, size) ** references, size))
    tail = (1 - CONFIDENCE) / 2
    return int(np.searchsorted(total, tail)), int(np.searchsorted(total, 1 - tail))


def of_held_out(trials: int, held_out: int, rate: float, references: int) -> tuple[int, int]:
    """The counts that chance allows when each threshold is a quantile of finitely many scores.

    A threshold at the k-th smallest of n scores of rows that the model has not seen is below a new row's score with a probability that
    varies from reference to reference: Beta(n + 1 - k, k), for any distribution of scores.
    """
    rank = min(int(np.ceil((held_out + 1) * (1 - rate) - 1e-9)), held_out)
    return beta_binomial(trials, held_out + 1 - rank, rank, references)


def of_kept(counts: NDArray[np.int64], trials: int, rate: float) -> tuple[int, int]:
    """The counts that chance allows when references are kept for many windows and their rates spread, this far as it seems, around the nominal one.

    Parameters
    ----------
    counts
        (references,) alarms with each of them.
    trials
        With each reference.
    """
    mean = counts.mean() / trials
    # How many times as much as binomial counts they vary; for n trials of rates from Beta(a, b) this is 1 + (n - 1) / (a + b + 1).
    times = counts.var(ddof=1) / (trials * mean * (1 - mean)) if 0 < mean < 1 else 1.0
    if times <= 1:
        return binomial(trials * len(counts), rate)
    together = max((trials - 1) / (times - 1) - 1, 1.0)
    return beta_binomial(trials, rate * together, (1 - rate) * together, len(counts))


def block(rows: NDArray[np.float64]) -> Block:
    """Rows without a hole, as the monitor decodes them."""
    return Block(np.asfortranarray(rows), np.zeros(rows.shape, np.bool_))


# --- One column at a time ------------------------------------------------------------------------------------------------------------


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.normal(size=shape)


def exponential(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.exponential(size=shape)


def lognormal(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.lognormal(0.0, 2.0, shape)


def heavy(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.standard_t(2, shape)


def counts_of_few(rng: np.random.Generator, shape: tuple[int, int]) -> NDArray[np.float64]:
    return rng.poisson(3.0, shape).astype(np.float64)


def numeric(
    rng: np.random.Generator,
    windows: int,
    draw: Draw,
    reference: int,
    window: tuple[int, int] = WINDOW,
    exact_rows: int = EXACT_ROWS,
) -> Iterator[Pair]:
    """Clean windows with a reference each, summed up as the product does; values are kept up to `exact_rows` rows."""
    names = named(COLUMNS)
    for start in range(0, windows, COLUMNS):
        rows = np.asfortranarray(draw(rng, (reference, COLUMNS)))
        rulers = tuple(Ruler.of(np.sort(rows[:, j])) for j in range(COLUMNS))
        plan = Plan(names, (), rulers, percentiles=False, comoments=False, exact_rows=exact_rows)
        size = int(rng.integers(window[0], window[1], endpoint=True))
        old, new = summarise(plan, block(rows)), summarise(plan, block(draw(rng, (size, COLUMNS))))
        yield from list(zip(old.columns(), new.columns(), strict=True))[: windows - start]


def categorical(
    rng: np.random.Generator, windows: int, shares: Sequence[float], reference: int, window: tuple[int, int] = WINDOW
) -> Iterator[Pair]:
    """Clean windows with a reference each, of categories with these shares."""
    for _ in range(windows):
        size = int(rng.integers(window[0], window[1], endpoint=True))
        yield _categories(rng, reference, shares), _categories(rng, size, shares)


def _categories(rng: np.random.Generator, size: int, shares: Sequence[float]) -> ColumnSummary:
    counts = rng.multinomial(size, shares).tolist()
    known = {f"c{j:02}": count for j, count in enumerate(counts) if count}
    return ColumnSummary("c", "categorical", size, distinct=len(known), counts=known)


def methods(names: Sequence[str]) -> list[list[DriftDetector]]:
    """Each method at every level."""
    return [[DRIFT[name](name=name, threshold=level) for level in LEVELS] for name in names]


def counted(pairs: Iterable[Pair], counts: Sequence[Count], tell: Tell) -> list[Count]:
    """What each method says about each window."""
    chosen = methods([count.method for count in counts])
    for reference, window in pairs:
        for levels, count in zip(chosen, counts, strict=True):
            verdict = levels[0].compare(reference, window)
            alarms = [method.is_drift(verdict.score) for method in levels]
            if verdict.drifted != alarms[0]:  # for another reason than the score, which depends on the threshold
                alarms = [method.compare(reference, window).drifted for method in levels]
            count.add(alarms)
        tell(1)
    return list(counts)


@dataclass(frozen=True, slots=True)
class Trial:
    """Clean windows of one kind, and the methods that judge them."""

    data: str
    methods: dict[str, str]
    """Name -> why the nominal rate is not promised; empty: it is."""
    pairs: Callable[[np.random.Generator, int], Iterator[Pair]]
    share: float = 1.0
    """Of the windows: fewer where a method takes long, or where nothing is promised."""

    def windows(self, windows: int) -> int:
        return max(round(windows * self.share), COLUMNS)

    def run(self, rng: np.random.Generator, windows: int, tell: Tell) -> list[Count]:
        counts = [Count(name, self.data, why) for name, why in self.methods.items()]
        return counted(self.pairs(rng, self.windows(windows)), counts, tell)


_ROW_RULE = f"{WINDOW[0]} to {WINDOW[1]} rows"
_FIVE = (0.4, 0.25, 0.2, 0.1, 0.05)
_TABLE_ENDS = "its p-values come from a table that ends at 0.001 (and 0.25), as scipy's: at 0.1 % it never alarms"
_OF_LIMIT = "its chi-square distribution is the limit for many rows, and comes late where one sample is much smaller"
_DISCRETE = "few p-values are possible in small samples: it keeps below the level"

TRIALS = (
    Trial(
        f"normal feature, reference of 1,000 rows, windows of {_ROW_RULE}",
        {"ks": "", "cramer_von_mises": "", "mannw": "", "t_test": "", "es": _OF_LIMIT, "anderson": _TABLE_ENDS},
        lambda rng, windows: numeric(rng, windows, normal, 1_000),
    ),
    Trial(
        "normal feature, reference and window of 1,000 rows",
        {"es": ""},
        lambda rng, windows: numeric(rng, windows, normal, 1_000, (1_000, 1_000)),
    ),
    Trial(
        f"exponential feature, reference of 1,000 rows, windows of {_ROW_RULE}",
        {"t_test": "it is exact for normal features", "es": _OF_LIMIT},
        lambda rng, windows: numeric(rng, windows, exponential, 1_000),
    ),
    Trial(
        "normal feature, reference and window of 200 rows",
        {"empirical_mmd": ""},
        lambda rng, windows: numeric(rng, windows, normal, 200, (200, 200)),
    ),
    Trial(
        f"five categories, reference of 1,000,000 rows, windows of {_ROW_RULE}",
        {"chisquare": "", "g_test": "", "TVD": ""},
        lambda rng, windows: categorical(rng, windows, _FIVE, 1_000_000),
    ),
    Trial(
        f"two categories, reference of 1,000 rows, windows of {_ROW_RULE}",
        {"z": "", "fisher_exact": _DISCRETE, "TVD": _DISCRETE},
        lambda rng, windows: categorical(rng, windows, (0.7, 0.3), 1_000),
    ),
    Trial(
        f"three categories, reference of 1,000 rows, windows of {_ROW_RULE}",
        {"fisher_exact": ""},
        lambda rng, windows: categorical(rng, windows, (0.5, 0.3, 0.2), 1_000),
    ),
)
"""Where the assumptions hold that a method's docstring states."""

FROM_SUMMARIES = (
    Trial(
        "normal feature, reference of 20,000 rows, windows of 1,001 to 3,000, both as ruler counts",
        {"ks": "", "cramer_von_mises": "", "mannw": "", "t_test": "", "es": _OF_LIMIT, "anderson": _TABLE_ENDS},
        lambda rng, windows: numeric(rng, windows, normal, 20_000, (1_001, 3_000)),
    ),
)

WARNED = (
    Trial(
        f"five categories, reference of 1,000 rows only, windows of {_ROW_RULE}",
        {
            "chisquare": "the reference is taken for the truth, and its own chance is ignored",
            "g_test": "the reference is taken for the truth, and its own chance is ignored",
        },
        lambda rng, windows: categorical(rng, windows, _FIVE, 1_000),
        0.2,
    ),
    Trial(
        "fifty categories in windows of 100 rows, reference of 1,000,000",
        {"chisquare": "two rows are expected of each category", "g_test": "two rows are expected of each category"},
        lambda rng, windows: categorical(rng, windows, [0.02] * 50, 1_000_000, (100, 100)),
        0.2,
    ),
    Trial(
        f"a count (Poisson, mean 3), reference of 1,000 rows, windows of {_ROW_RULE}",
        {
            "ks": "values that are equal make its p-value too large",
            "cramer_von_mises": "values that are equal enlarge its statistic when sizes are unequal",
            "mannw": "its variance is corrected for equal values, its distribution is a limit",
            "anderson": "its table is that of features without equal values (and ends at 0.001)",
        },
        lambda rng, windows: numeric(rng, windows, counts_of_few, 1_000),
        0.2,
    ),
    Trial(
        "normal feature, reference of 1,000 rows, windows of 100",
        {"es": _OF_LIMIT},
        lambda rng, windows: numeric(rng, windows, normal, 1_000, (100, 100)),
        0.2,
    ),
    Trial(
        f"very skewed feature (log-normal, sigma 2), reference of 1,000 rows, windows of {_ROW_RULE}",
        {"es": _OF_LIMIT, "t_test": "it compares means, and one value may decide them"},
        lambda rng, windows: numeric(rng, windows, lognormal, 1_000),
        0.2,
    ),
    Trial(
        f"heavy-tailed feature (Student, 2 degrees of freedom), reference of 1,000 rows, windows of {_ROW_RULE}",
        {"es": _OF_LIMIT, "t_test": "it compares means, and one value may decide them"},
        lambda rng, windows: numeric(rng, windows, heavy, 1_000),
        0.2,
    ),
)
"""Where a docstring says that the method misleads: what that comes to."""


def kept_reference(rng: np.random.Generator, windows: int, tell: Tell) -> list[dict[str, Any]]:
    """The rates at 5 % of single references that are kept for many windows, as a monitor keeps its baseline.

    A test is calibrated over references and windows. With one reference its rate is another one, for good: what
    happens to be odd about that sample is odd about it in every window.
    """
    references, rows, level = 40, 350, LEVELS[0]
    each = max(windows // references, 2)
    ks, found = DRIFT["ks"](name="ks", threshold=level), []
    for size in (1_000, 10_000, 100_000):
        rates = []
        for _ in range(references):
            old = normal(rng, (size, 1))
            plan = Plan(
                ("x",), (), (Ruler.of(np.sort(old[:, 0])),), percentiles=False, comoments=False, exact_rows=size
            )
            reference = summarise(plan, block(old)).column("x")
            new = (summarise(plan, block(normal(rng, (rows, 1)))).column("x") for _ in range(each))
            rates.append(float(np.mean([ks.compare(reference, window).drifted for window in new])))
            tell(each)
        found.append(
            {
                "method": "ks",
                "reference_rows": size,
                "window_rows": rows,
                "nominal": level,
                "references": references,
                "windows_each": each,
                "lowest": rounded(min(rates)),
                "highest": rounded(max(rates)),
                "mean": rounded(float(np.mean(rates))),
                "std": rounded(float(np.std(rates, ddof=1))),
                "std_by_chance_alone": rounded(float(np.sqrt(level * (1 - level) / each))),
            }
        )
    return found


# --- Several columns ------------------------------------------------------------------------------------------------------------------


def corrected(rng: np.random.Generator, windows: int, tell: Tell) -> list[dict[str, Any]]:
    """Share of false calls among all calls, over windows of 30 columns, when adjusted p-values of at most 5 % are called drifted."""
    columns, rate = 30, 0.05
    t_test = DRIFT["t_test"]()
    found = []
    for correlation, drifted, number in (
        (0.0, 0, windows),
        (0.5, 0, windows),
        (0.0, 5, windows // 10),
        (0.5, 5, windows // 10),
    ):
        false_share, right = np.empty(number), 0
        for i in range(number):
            size = int(rng.integers(*WINDOW, endpoint=True))
            old, new = (_correlated(rng, rows, columns, correlation) for rows in (1_000, size))
            new[:, :drifted] += 0.25
            p = [t_test.compare(a, b).score for a, b in zip(_moments(old), _moments(new), strict=True)]
            calls = adjusted(p) <= rate
            false_share[i] = calls[drifted:].sum() / max(calls.sum(), 1)
            right += int(calls[:drifted].sum())
            tell(1)
        mean = float(false_share.mean())
        half = float(stats.norm.isf((1 - CONFIDENCE) / 2) * false_share.std(ddof=1) / np.sqrt(number))
        promised = rate * (columns - drifted) / columns
        alike = f"columns correlated by {correlation}" if correlation else "independent columns"
        found.append(
            {
                "data": f"{columns} {alike}, "
                + (f"{drifted} of them moved by 0.25 standard deviations" if drifted else "none of them moved"),
                "windows": number,
                "promised_at_most": rounded(promised),
                "false_share": rounded(mean),
                "interval": [rounded(max(mean - half, 0.0)), rounded(mean + half)],
                # Of correlated columns less than is promised is what theory says.
                "verdict": "above" if mean - half > promised else "below" if mean + half < promised else "within",
                "found_of_moved": rounded(right / (number * drifted)) if drifted else None,
            }
        )
    return found


def _correlated(rng: np.random.Generator, rows: int, columns: int, correlation: float) -> NDArray[np.float64]:
    own = rng.normal(size=(rows, columns))
    if not correlation:
        return own
    mixed: NDArray[np.float64] = np.sqrt(1 - correlation) * own + np.sqrt(correlation) * rng.normal(size=(rows, 1))
    return mixed


def _moments(rows: NDArray[np.float64]) -> list[ColumnSummary]:
    mean = rows.mean(axis=0)
    return [
        ColumnSummary(f"x{j}", "numeric", len(rows), low=low, high=high, mean=center, m2=m2)
        for j, (low, high, center, m2) in enumerate(
            zip(
                rows.min(axis=0).tolist(),
                rows.max(axis=0).tolist(),
                mean.tolist(),
                ((rows - mean) ** 2).sum(axis=0).tolist(),
                strict=True,
            )
        )
    ]


_DIMENSIONS = 8


def named(columns: int) -> tuple[str, ...]:
    return tuple(f"x{j}" for j in range(columns))


def _mixture(rng: np.random.Generator) -> NDArray[np.float64]:
    """(8, 8) a mixing matrix: columns that depend on one another, some nearly as a function."""
    return np.eye(_DIMENSIONS) + rng.normal(size=(_DIMENSIONS, _DIMENSIONS)) / 2


def _alike(_: np.random.Generator) -> NDArray[np.float64]:
    """(8, 8) a mixing matrix: columns that are all correlated by 0.5."""
    return np.linalg.cholesky(np.full((_DIMENSIONS, _DIMENSIONS), 0.5) + np.eye(_DIMENSIONS) / 2).T


def multivariate(rng: np.random.Generator, windows: int, tell: Tell) -> list[dict[str, Any]]:
    """How often chance alone passes what each multivariate method takes for its limit (its `threshold` is next to nothing here)."""
    found = []
    for name in MULTIVARIATE:
        references, number = (10, windows // 30) if name == "domain_classifier" else (25, windows)
        found += _kept(
            rng, name, f"8 columns correlated by 0.5, {references} references", "", _alike, references, number, tell
        )
    nearly = (
        "rare rows that break what nearly is a rule are most of what chance does, and a sample tells of them roughly"
    )
    for name, why in (("pca", ""), ("gaussian", nearly), ("mmd_rff", "")):
        found += _kept(rng, name, "8 columns mixed at random, 25 references", why, _mixture, 25, windows, tell)
    return found


def _kept(
    rng: np.random.Generator,
    name: str,
    data: str,
    why: str,
    mixing: Callable[[np.random.Generator], NDArray[np.float64]],
    references: int,
    windows: int,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Alarms at each level of one multivariate method, with references of 20,000 rows that are each kept for many windows."""
    names = named(_DIMENSIONS)
    least = 0.5 + 1e-9 if name == "domain_classifier" else 1e-9
    often, seldom = (MULTIVARIATE[name](name=name, threshold=least, false_alarm_rate=level) for level in LEVELS)
    each = max(windows // references, 1)
    counts = np.zeros((references, len(LEVELS)), np.int64)
    for i in range(references):
        mixture = mixing(rng)
        reference = Joint.of(names, rng.normal(size=(20_000, _DIMENSIONS)) @ mixture)
        embedding, fitted = often.embedding(reference), [detector.learn(reference) for detector in (often, seldom)]
        for _ in range(each):
            size = int(rng.integers(*WINDOW, endpoint=True))
            window = Joint.of(names, rng.normal(size=(size, _DIMENSIONS)) @ mixture, embedding)
            alarm = fitted[0].compare(window).drifted
            counts[i] += (alarm, alarm and fitted[1].compare(window).drifted)
            tell(1)
    return [
        judged(
            name,
            f"{data} of 20,000 rows, windows of {_ROW_RULE}",
            level,
            each * references,
            int(of_level.sum()),
            of_kept(of_level, each, level),
            why,
        )
        | {"of_references": [rounded(float(end) / each) for end in (of_level.min(), of_level.max())]}
        for level, of_level in zip(LEVELS, counts.T, strict=True)
    ]


def outliers(rng: np.random.Generator, windows: int, tell: Tell) -> list[dict[str, Any]]:
    """Share of clean rows that the learnt outlier models flag: windows of 100 rows that neither model nor threshold has seen."""
    size, found = 10_000, []
    columns = [FittingColumn(ColumnSummary(name, "numeric", size)) for name in named(_DIMENSIONS)]
    for name in LEARNED:
        references = 2 if name == "autoencoder" else 10
        each = max(windows // references, 1) * 100
        flagged = [0] * len(LEVELS)
        for _ in range(references):
            mixture = _mixture(rng)
            rows, fresh = (np.tanh(rng.normal(size=(n, _DIMENSIONS)) @ mixture) for n in (size, each))
            for i, level in enumerate(LEVELS):
                detector = OUTLIERS[name](name=name, false_alarm_rate=level)  # type: ignore[call-arg]
                assert isinstance(detector, LearnedOutlierDetector)
                fitted = detector.fitted(columns, detector.learn(rows))
                flagged[i] += len(fitted.flag(block(fresh)).rows)
            tell(each / 100)
        data = f"8 dependent columns, {references} references of {size:,} rows, half of them for the threshold"
        found += [
            judged(name, data, level, each * references, count, of_held_out(each, size - size // 2, level, references))
            for level, count in zip(LEVELS, flagged, strict=True)
        ]
    return found
