"""Who is looked at one by one."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.traffic.base import OTHER
from detectors.traffic.clients import Clients

names = st.lists(st.one_of(st.none(), st.integers(0, 30).map(lambda i: f"c{int(i**1.5)}")), max_size=200)


def added(parts, most, senders):
    total = Clients.empty(most)
    for part in parts:
        total, _, _ = total.joined(Clients.of(senders(part), len(part), most)[0])
    return total


@given(sent=names, most=st.integers(1, 8), cuts=st.integers(1, 8))
@settings(max_examples=150)
def test_frequent_clients_are_tracked_however_the_stream_is_cut(requests, sent, most, cuts):
    parts = [part.tolist() for part in np.array_split(np.array(sent, object), cuts)]
    found = added(parts, most, requests.senders)
    true = Counter(name for name in sent if name is not None)
    assert len(found.names) <= most
    assert found.requests.sum() == len(sent)
    assert {name for name, count in true.items() if count > len(sent) / (most + 1)} <= set(found.names)
    assert found.error <= len(sent) / (most + 1)
    for name, requests_, weight in zip(found.names, found.requests[1:], found.weights, strict=True):
        assert true[name] - found.error <= weight <= requests_ <= true[name]


@given(sent=names, cuts=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_few_clients_are_counted_exactly(requests, sent, cuts, seed):
    mixed = np.random.default_rng(seed).permutation(np.array(sent, object))
    found = added([part.tolist() for part in np.array_split(mixed, cuts)], 31, requests.senders)
    true = Counter(name for name in sent if name is not None)
    assert dict(zip(found.names, found.requests[1:].tolist(), strict=True)) == true
    assert found.requests[0] == len(sent) - true.total()
    assert found.error == 0


def test_groups_follow_their_clients(requests):
    a, of_row = Clients.of(requests.senders(["b", "a", "a", None]), 4, 2)
    assert of_row.tolist() == [2, 1, 1, 0]
    b, _ = Clients.of(requests.senders(["c"] * 5), 5, 2)
    both, mine, theirs = a.joined(b)
    assert both.names == ("a", "c")
    assert mine.tolist() == [0, 1, 0]
    assert theirs.tolist() == [0, 2]
    assert list(both.groups()) == [("a", 1), ("c", 2), (OTHER, 0)]
    assert both.requests.tolist() == [2, 2, 5]


def test_places_left_free_by_a_tie_are_given_away(requests):
    tracked, of_row = Clients.of(requests.senders(["b", "a", "d", "c"] * 3), 12, 2)
    assert tracked.names == ("a", "b")
    assert tracked.weights.tolist() == [0, 0]
    assert np.bincount(of_row).tolist() == [6, 3, 3]


def test_nobody_takes_the_name_of_the_others(requests):
    tracked, of_row = Clients.of(requests.senders([OTHER, "a"]), 2, 5)
    assert tracked.names == ("a",)
    assert of_row.tolist() == [0, 1]


def test_without_clients_all_are_others():
    tracked, of_row = Clients.of(None, 3, 5)
    assert list(tracked.groups()) == [(OTHER, 0)]
    assert of_row.tolist() == [0, 0, 0]
    assert not list(Clients.empty(5).groups())


@pytest.mark.parametrize("spoil", ["names", "requests", "weights"])
def test_a_packed_form_that_is_not_whole_is_refused(requests, spoil):
    packed = Clients.of(requests.senders(["a", "b"]), 2, 5)[0].packed()
    setattr(packed, spoil, getattr(packed, spoil)[:-1])
    with pytest.raises(ValueError, match="clients"):
        Clients.unpacked(packed, 5)
