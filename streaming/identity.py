"""What a prediction, its label, its request and its response have in common: 64 bits of the request id."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from detectors.statistics.sample import mixed


def message_keys(ids: Sequence[str]) -> NDArray[np.uint64]:
    """(messages,) a hash of each request id, the same in every process and every run.

    SipHash-2-4 under pandas' fixed key, stirred once more (a bijection). Two of n ids share a hash with probability n (n - 1) / 2^65 at most: 3e-8 for a million that
    wait, 3e-4 for a hundred million. A label whose own prediction is gone meets one of n strangers with probability n / 2^64.

    The key is public: who may choose request ids and can afford 2^32 hashes can make two of them meet, and spoil his own two labels.

    References
    ----------
    Aumasson & Bernstein (2012), SipHash: a fast short-input PRF, INDOCRYPT.
    """
    texts = np.empty(len(ids), np.object_)
    texts[:] = ids
    keys: NDArray[np.uint64] = pd.util.hash_array(texts, categorize=False)
    return keys


def instance_keys(ids: Sequence[str], message: NDArray[np.int64], instance: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(instances,) a hash of (request id, index of the instance in the request); instances of one request never share one.

    Parameters
    ----------
    ids
        (messages,) request ids.
    message
        (instances,) whose request id is meant.
    instance
        (instances,) index of the instance in its message.
    """
    return keys_of(message_keys(ids)[message], instance)


def keys_of(messages: NDArray[np.uint64], instance: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(instances,) `instance_keys`, of those of their messages."""
    return mixed(messages ^ mixed(instance.astype(np.uint64)))
