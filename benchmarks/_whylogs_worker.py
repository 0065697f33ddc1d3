"""Runs in whylogs' own environment: profiles the rows of a Parquet file, a row group at a time, and prints the seconds as JSON.

It imports nothing of this project, which that environment does not have.
"""

import json
import sys
import time
from importlib.metadata import version

import pyarrow.parquet as pq
import whylogs  # type: ignore[import-not-found] # it is in its own environment only


def main(path: str, rows: int) -> None:
    file = pq.ParquetFile(path)
    started, done, profile = time.perf_counter(), 0, None
    for group in range(file.num_row_groups):
        frame = file.read_row_group(group).slice(0, rows - done).to_pandas()
        if profile is None:
            profile = whylogs.log(frame).profile()
        else:
            profile.track(frame)
        done += len(frame)
        if done >= rows:
            break
    assert profile is not None  # a file has row groups
    profile.view().to_pandas()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "rows": done, "version": version("whylogs")}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
