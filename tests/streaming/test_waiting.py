"""Labels find their predictions, however the stream was cut."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from by_hand import MapState
from hypothesis import given
from hypothesis import strategies as st

from streaming import waiting
from streaming.waiting import Index, Terms, Waiting

TERMS = Terms(retention=64_000, label_wait=64_000)
"""Bins of one second."""
FOREVER = 10**15


class Key:
    """One key of the operator; between two batches there are nothing but bytes."""

    def __init__(self, terms=TERMS):
        self.terms, self.state, self.index = terms, MapState(), msgspec.msgpack.encode(Index())
        self.pairs, self.letters = {}, []

    def batch(self, predictions=(), labels=(), now=0, before=None):
        """Predictions: (pane, key, value); labels: (key, value). A round, unless `before` is None."""
        index = msgspec.msgpack.decode(self.index, type=Index)
        here = Waiting(self.state, index, self.terms, now)
        panes, keys, values = zip(*predictions, strict=True) if predictions else ((), (), ())
        values = np.array(values, np.float64)[:, None] + np.zeros((1, self.terms.width))
        here.predict(np.array(panes, np.int64), np.array(keys, np.uint64), values)
        keys, values = zip(*labels, strict=True) if labels else ((), ())
        here.label(np.array(keys, np.uint64), np.array(values, np.float64), [f"{k}:{v:g}".encode() for k, v in labels])
        if before is not None:
            found = here.round(before)
            assert list(found.pairs) == sorted(found.pairs)
            for pane, pairs in found.pairs.items():
                assert (pairs.keys[1:] > pairs.keys[:-1]).all()
                for key, value, label in zip(
                    pairs.keys.tolist(), pairs.values[:, 0].tolist(), pairs.labels.tolist(), strict=True
                ):
                    assert key not in self.pairs
                    self.pairs[key] = (pane, value, label)
            self.letters += [letter.decode() for letter in found.letters]
        here.write()
        self.check(index)
        self.index = msgspec.msgpack.encode(index)
        return self

    def check(self, index):
        """The index tells of what is in the state, and of nothing else."""
        parts = [part for one in index.predictions.values() for part in one.parts]
        heaps = [heap for one in index.labels.values() for heap in one]
        known = [(0, part.number) for part in parts] + [(1, part.number) for part in parts if part.marked]
        known += [(kind, heap.number) for heap in heaps for kind in (2, 3)]
        assert sorted(self.state) == sorted(known)
        for part in parts:
            (data,) = self.state[0, part.number]
            marks = self.state[1, part.number][0] if part.marked else None
            rows = waiting._Rows.unpacked(data, marks, self.terms)
            assert (len(rows.keys), len(rows.done), int(rows.marks.sum())) == (part.rows, part.done, part.marked)
            assert part.rows + part.done
            assert len(data) < part.size + 8 * len(set(rows.panes.tolist())) + 40

    @property
    def counts(self):
        return msgspec.msgpack.decode(self.index, type=Index).counts

    @property
    def values(self):
        return len(self.state)


def end(key, now=FOREVER):
    """After all has waited long enough."""
    key.batch(now=now, before=FOREVER)
    assert not key.state
    return key


def cut(things, places):
    bounds = [0, *sorted(place % (len(things) + 1) for place in places), len(things)]
    return [things[a:b] for a, b in pairwise(bounds)]


numbers = st.integers(0, 15)
"""Keys: the highest, the lowest, and some between."""


def spread(key):
    return key * 0x1111111111111111 % 2**64


@st.composite
def streams(draw):
    """Predictions and labels, the same key always in the same bin, and two ways to cut them, with rounds now and then."""
    predictions = [(1000 * (k % 5) + 250 * (i % 3), spread(k), float(i)) for i, k in enumerate(draw(st.lists(numbers)))]
    labels = [(spread(k), float(i)) for i, k in enumerate(draw(st.lists(numbers)))]
    places = st.lists(st.integers(0, 100), min_size=7, max_size=7)
    ways = [
        [
            *zip(
                cut(predictions, draw(places)),
                cut(labels, draw(places)),
                draw(st.lists(st.booleans(), min_size=8, max_size=8)),
                strict=True,
            )
        ]
        for _ in range(2)
    ]
    return predictions, labels, ways


@given(streams())
def test_pairs_do_not_depend_on_how_the_stream_was_cut(stream):
    predictions, labels, ways = stream
    of, label_of = {}, {}
    for pane, key, value in predictions:
        of.setdefault(key, (pane, value))
    for key, label in labels:
        label_of.setdefault(key, label)
    expected = {key: (*of[key], label_of[key]) for key in of.keys() & label_of.keys()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting, "LARGEST", 100)
        patch.setattr(waiting, "MOST_SMALL", 2)
        for way in ways:
            key = Key()
            for some, others, a_round in way:
                key.batch(some, others, before=0 if a_round else None)
            key.batch(before=0)
            assert key.pairs == expected
            end(key)
            counts = key.counts
            assert counts.matched == len(expected)
            assert counts.unlabelled == len(of) - len(expected)
            assert counts.repeated == len(predictions) - len(of)
            assert counts.unmatched == len(label_of) - len(expected)
            assert counts.duplicates == len(labels) - len(label_of)
            lonely = label_of.keys() - of.keys()
            assert sorted(key.letters) == sorted(f"{one}:{label_of[one]:g}" for one in lonely)


@given(st.sets(numbers), st.sets(numbers), st.data())
def test_nor_on_the_order(predicted, labelled, data):
    things = [("p", k) for k in predicted] + [("l", k) for k in labelled]
    batches = cut(data.draw(st.permutations(things)), data.draw(st.lists(st.integers(0, 99), max_size=6)))
    key = Key()
    for batch in batches:
        some = [(500 * k, spread(k), k) for kind, k in batch if kind == "p"]
        key.batch(some, [(spread(k), -k) for kind, k in batch if kind == "l"], before=0)
    assert key.pairs == {spread(k): (500 * k, k, -k) for k in predicted & labelled}
    assert end(key).counts.unlabelled == len(predicted - labelled)
    assert len(key.letters) == key.counts.unmatched == len(labelled - predicted)
    assert key.counts.duplicates == key.counts.repeated == 0


def test_nothing_goes_before_its_time():
    key = Key().batch([(1250, 1, 1.0), (1750, 2, 2.0), (3000, 3, 3.0)], [(9, 9.0)], now=500)
    key.batch(before=1750, now=64_999)
    key.batch(labels=[(1, 1.0), (2, 2.0)], before=1750)  # the bin waits for its newest pane
    assert key.pairs == {1: (1250, 1.0, 1.0), 2: (1750, 2.0, 2.0)}
    assert key.letters == []
    key.batch(labels=[(3, 3.0)], before=3001, now=64_999)
    assert key.pairs[3] == (3000, 3.0, 3.0)
    key.batch(before=3001, now=65_000)
    assert key.letters == ["9:9"]
    assert not key.state


def test_a_prediction_that_comes_when_its_time_is_over_does_not_wait():
    key = Key().batch(before=2000)
    key.batch([(1999, 1, 1.0), (2000, 2, 2.0)], before=0)
    key.batch(labels=[(1, 1.0), (2, 2.0)], before=0)
    assert list(key.pairs) == [2]
    assert key.counts.unlabelled == 1


def test_a_second_label_is_recognised_when_its_prediction_is_gone_from_its_part():
    many = [(0, spread(k), k) for k in range(1, 41)]
    key = Key().batch(many, before=0)
    key.batch(labels=[(spread(1), 1.0)], before=0)
    assert key.values == 2  # a mark, and no part that was written again
    key.batch(labels=[(spread(k), 1.0) for k in range(1, 30)], before=0)
    assert key.values == 1
    assert key.counts.duplicates == 1
    key.batch(labels=[(spread(k), 2.0) for k in range(1, 41)], before=0)
    assert (key.counts.matched, key.counts.duplicates, key.values) == (40, 30, 1)
    assert end(key).counts.unlabelled == 0


def test_many_small_parts_become_few():
    key = Key()
    for batch in range(100):
        key.batch([(0, spread(100 * batch + k), 0.0) for k in range(100)], before=0)
    assert key.values <= waiting.MOST_SMALL + 1
    for batch in range(100):
        key.batch(labels=[(7 * 10**6 + batch, 0.0)], before=0)
    assert key.values <= 3 * (waiting.MOST_SMALL + 1)


def test_of_predictions_with_one_key_the_first_counts():
    key = Key()
    for k in range(waiting.MOST_SMALL + 2):
        key.batch([(0, 5, float(k)), (0, 5, 99.0), (0, 10 + k, 1.0)], before=0)
    assert key.values < waiting.MOST_SMALL
    key.batch([(0, 5, 77.0)], [(5, 1.0)], before=0)
    assert key.pairs == {5: (0, 0.0, 1.0)}
    assert end(key).counts.repeated == 2 * (waiting.MOST_SMALL + 2)


def test_labels_that_wait_for_a_round_are_looked_up_when_it_comes():
    key = Key().batch([(0, 5, 5.0)], before=0)
    for k in range(waiting.MOST_SMALL + 2):  # merged before any round
        key.batch(labels=[(k, 1.0)])
    assert key.values <= 1 + 2 * waiting.MOST_SMALL
    assert list(key.batch(before=0).pairs) == [5]


def test_dead_letters_of_labels_that_found_their_prediction_go():
    key = Key().batch(labels=[(k, 0.5) for k in range(40)], before=0)
    (all_of_them,) = [len(value) for (kind, _), (value,) in key.state.items() if kind == 3]
    key.batch([(0, k, 1.0) for k in range(0, 40, 4)], before=0)
    assert [len(value) for (kind, _), (value,) in key.state.items() if kind == 3] == [all_of_them]
    key.batch([(0, k, 1.0) for k in range(30)], before=0)
    (rest,) = [len(value) for (kind, _), (value,) in key.state.items() if kind == 3]
    assert rest < all_of_them / 3
    assert end(key).letters == [f"{k}:0.5" for k in range(30, 40) if k % 4]


@pytest.mark.parametrize(
    ("sizes", "merged"),
    [
        ("s" * waiting.MOST_SMALL, ["s"] * waiting.MOST_SMALL),
        ("s" * (waiting.MOST_SMALL + 1), ["s" * (waiting.MOST_SMALL + 1)]),
        ("LsssLsLLss", ["L", "sss", "L", "s", "L", "L", "s", "s"]),
    ],
)
def test_what_is_merged_keeps_its_place(sizes, merged):
    large = waiting.LARGEST // 2
    parts = [waiting.Heap(i, 1, 1, large if size == "L" else large - 1) for i, size in enumerate(sizes)]
    names = {part.number: size for part, size in zip(parts, sizes, strict=True)}

    def one(run):
        names[run[0].number] = "s" * len(run)
        return run[:1]

    assert [names[part.number] for part in waiting._compacted(parts, one)] == merged


def test_no_part_is_larger_than_it_may():
    keys = np.arange(300_000, dtype=np.uint64)
    key = Key()
    for some in (keys[:200_000], keys[200_000:]):
        key.batch([(0, one, 0.0) for one in some.tolist()], before=0)
    key.batch(labels=[(one, 0.0) for one in (keys[:50_000] + 10**6).tolist()], before=0)
    assert max(len(value) for (value,) in key.state.values()) <= waiting.LARGEST
    assert key.values < 12


def test_bytes_of_a_prediction_that_waits():
    for width, double, most in ((1, False, 14.2), (1, True, 18.2), (3, False, 22.2)):
        keys = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64).tolist()
        key = Key(Terms(64 * 3_600_000, 64_000, width, double))
        key.batch([(15_000 * (k % 240), k, 0.0) for k in keys])
        assert sum(len(value) for (value,) in key.state.values()) / len(keys) < most
        assert len(key.index) < 200
        key.batch(labels=[(k, 0.0) for k in keys], before=0)
        assert sum(len(value) for (value,) in key.state.values()) / len(keys) < 8.1


@pytest.mark.parametrize("bound", [{"most_labels": 10}, {"most_label_bytes": 10 * 24 + 5}])
def test_labels_that_are_too_many_go_at_once(bound):
    key = Key(Terms(64_000, 64_000, **bound))
    for k in range(13):
        key.batch(labels=[(10 + k, 0.0)], now=k * 1000, before=0)
    assert key.letters == ["10:0", "11:0", "12:0"]
    assert len(end(key).letters) == key.counts.unmatched == 13


def test_predictions_that_are_too_many_go():
    key = Key(Terms(64_000, 64_000, most_predictions=10))
    for k in range(13):
        key.batch([(k * 1000, k, 0.0)])
    key.batch(labels=[(k, 0.0) for k in range(13)], before=0)
    assert sorted(key.pairs) == list(range(3, 13))
    assert key.counts.unlabelled == 3


def test_other_values_than_before_begin_anew():
    key = Key().batch([(0, 1, 1.0)]).batch(labels=[(2, 2.0)])
    key.terms = Terms(64_000, 64_000, 2)
    key.batch([(0, 2, 2.0)], [(1, 1.0)], before=0)
    assert key.counts.unlabelled == 1
    assert list(key.pairs) == [2]


class Counted(MapState):
    """Counts what is read."""

    reads = 0

    def getValue(self, key):  # noqa: N802
        self.reads += 1
        return super().getValue(key)


def test_no_pair_is_tried_twice():
    key = Key()
    key.state = Counted()
    for k in range(20):
        key.batch([(k * 1000, k, 0.0)], before=0)
    assert key.state.reads == 0
    index = msgspec.msgpack.decode(key.index, type=Index)
    here = Waiting(key.state, index, TERMS, 0)
    assert here.to_read == (0, 0)
    here.label(np.array([99], np.uint64), np.zeros(1), [b""])
    assert here.to_read == (20, 20 * 14)
    key.batch(labels=[(99, 0.0)], before=0)
    assert key.state.reads == 20
    key.batch(before=0)
    assert key.state.reads == 20
    key.batch([(0, 100, 0.0)], before=0)  # the label that waits is tried on the new one
    assert key.state.reads == 21
    key.batch(labels=[(19, 0.0)], before=0)  # newer bins first, and none when all is found
    assert key.state.reads == 23
