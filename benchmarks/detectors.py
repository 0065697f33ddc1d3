"""A window's drift report beside Evidently's, and outlier detectors alone: the speed of what is computed.

    OMP_NUM_THREADS=1 make bench-detectors

One core. `report_vs_evidently`: how many times as fast the drift report of 100,000 x 30 is from a window's summary (and a loaded baseline) as
stock Evidently's from the raw rows of both, in one run (benchmarks/report.py). Rows per second of outlier detectors on 1,000,000 x 30
(benchmarks/outliers.py). Milliseconds per column of each drift method, from summaries.
"""

import os

# One core, as a Spark worker has it: BLAS reads this when numpy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import outliers
import report
from _results import Results


def main() -> None:
    """Measure, write and show."""
    results = Results("detectors")
    found = report.figures()
    per_column = found.pop("ms_per_column")
    for key, value in {**found, **outliers.figures()}.items():
        results.figure(key, value)
    results.table("ms_per_column", [{"method": name, "ms": round(ms, 4)} for name, ms in per_column.items()])
    results.write()
    results.show()
    for name, ms in per_column.items():
        print(f"{name:20} {ms:8.3f} ms a column")


if __name__ == "__main__":
    main()
