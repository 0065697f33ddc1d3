"""Runs in alibi-detect's own environment: reads arrays and a job from a folder, writes what its detectors say as JSON.

It imports nothing of this project, which that environment does not have.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from alibi_detect.cd import (  # type: ignore[import-not-found] # it is in its own environment only
    ChiSquareDrift,
    ClassifierDrift,
    CVMDrift,
    FETDrift,
    KSDrift,
)
from sklearn.ensemble import HistGradientBoostingClassifier


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    first, size, level = job["reference"], job["window"], job["level"]
    numbers = np.load(folder / "numbers.npy", allow_pickle=False)
    errors = np.load(folder / "errors.npy", allow_pickle=False)
    starts = range(first, len(numbers) - size + 1, size)

    def p_values(detector: Any, rows: np.ndarray) -> list[list[float]]:
        return [detector.predict(rows[at : at + size])["data"]["p_val"].astype(float).tolist() for at in starts]

    answer: dict[str, Any] = {
        "versions": {name: version(name) for name in ("alibi-detect", "numpy", "scipy", "scikit-learn")},
        "ks": p_values(KSDrift(numbers[:first], p_val=level), numbers),
        "cramer_von_mises": p_values(CVMDrift(numbers[:first], p_val=level), numbers),
        "chisquare": p_values(ChiSquareDrift(errors[:first], p_val=level), errors),
        "fisher_exact": p_values(FETDrift(errors[:first], p_val=level, alternative="two-sided"), errors),
        "fdr": {},
        "classifier": {},
    }
    for name, columns in job["tables"].items():
        rows = numbers[:, columns]
        corrected = KSDrift(rows[:first], p_val=level, correction="fdr")
        answer["fdr"][name] = [int(corrected.predict(rows[at : at + size])["data"]["is_drift"]) for at in starts]
    for name in job["classified"]:
        rows = numbers[:, job["tables"][name]]
        trees = HistGradientBoostingClassifier(
            max_iter=30, max_leaf_nodes=8, min_samples_leaf=10, max_bins=64, early_stopping=False, random_state=0
        )
        detector = ClassifierDrift(rows[:first], trees, backend="sklearn", p_val=job["classifier_level"])
        answer["classifier"][name] = [int(detector.predict(rows[at : at + size])["data"]["is_drift"]) for at in starts]
    (folder / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
