"""Stat tests of somebody's own, with Evidently's signature: what a ModelMonitor may name."""

import numpy as np

NOT_A_FUNCTION = 5


def apart(reference, current, feature_type, threshold):
    """Largest difference of the cumulative shares: of numbers, or of categories in sorted order."""
    values = np.unique(np.concatenate((reference.to_numpy(), current.to_numpy())))
    shares = [
        np.searchsorted(np.sort(rows.to_numpy()), values, side="right") / len(rows) for rows in (reference, current)
    ]
    score = np.max(np.abs(shares[0] - shares[1]))
    if feature_type.value == "cat":
        steps = [np.diff(share, prepend=0.0) for share in shares]
        score = np.abs(steps[0] - steps[1]).sum() / 2
    return score, score >= threshold


def told(reference, current, feature_type, threshold):
    """Nothing but what it was given."""
    GIVEN.append((reference, current, feature_type, threshold))
    return 0.5, False


GIVEN = []


def failing(reference, current, feature_type, threshold):
    raise ZeroDivisionError("no luck")


def leaving(reference, current, feature_type, threshold):
    raise SystemExit(3)


def of_two(reference, current):
    return 0.5, False


def nothing(reference, current, feature_type, threshold):
    return None


def one_number(reference, current, feature_type, threshold):
    return 0.5


def three(reference, current, feature_type, threshold):
    return 0.5, True, "why"


def a_text(reference, current, feature_type, threshold):
    return "0.5", True


def rows_of_scores(reference, current, feature_type, threshold):
    return reference, current > 0


def perhaps(reference, current, feature_type, threshold):
    return 0.5, None


def not_a_number(reference, current, feature_type, threshold):
    return float("nan"), False


def large(reference, current, feature_type, threshold):
    return 7, np.True_


def boundless(reference, current, feature_type, threshold):
    return np.float32("inf"), True


class Nested:
    @staticmethod
    def half(reference, current, feature_type, threshold):
        return 0.5, np.False_
