"""Requests and responses meet, however the stream was cut."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from detectors.statistics.block import Block, Codes
from streaming.pairing import Pending, Requests, Responses, joined, packed, paired, unpacked

WORDS = ("", "a", "ä", "long " * 20)


@st.composite
def blocks(draw, columns=2, categorical=1):
    rows = draw(st.integers(0, 4))
    words = [draw(st.permutations(WORDS).map(tuple)) for _ in range(categorical)]
    codes = [draw(arrays.arrays(np.int32, rows, elements=st.integers(-1, len(WORDS) - 1))) for _ in words]
    return Block(
        draw(arrays.arrays(np.float64, (rows, columns))),
        draw(arrays.arrays(np.bool_, (rows, columns))),
        tuple(map(Codes, codes, words)),
        draw(arrays.arrays(np.uint64, rows)),
        draw(st.none() | arrays.arrays(np.bool_, (rows, columns + categorical))),
    )


def cells(block):
    """The rows of a block, as plain values."""
    wrong = (
        np.zeros((block.rows, block.numeric.shape[1] + len(block.categorical)), np.bool_)
        if block.wrong is None
        else block.wrong
    )
    return [
        (
            block.numeric[i].tobytes(),
            block.missing[i].tolist(),
            [None if each.codes[i] < 0 else each.values[each.codes[i]] for each in block.categorical],
            None if block.keys is None else int(block.keys[i]),
            wrong[i].tolist(),
        )
        for i in range(block.rows)
    ]


@given(blocks())
def test_a_block_survives_its_bytes(block):
    again = unpacked(packed(block))
    assert cells(again) == cells(block)
    assert again.numeric.shape == again.missing.shape == block.numeric.shape
    assert (again.wrong is None) == (block.wrong is None)
    assert set(again.categorical[0].values) == {word for _, _, (word,), _, _ in cells(block)} - {None}


@given(st.lists(blocks(), min_size=1, max_size=3))
def test_joined_blocks_have_the_rows_of_all(some):
    assert cells(joined(some)) == [row for block in some for row in cells(block)]


def test_blocks_without_columns_or_keys():
    nothing = Block(np.empty((3, 0)), np.empty((3, 0), np.bool_))
    assert unpacked(packed(nothing)).rows == 3
    assert joined((nothing, Block(nothing.numeric, nothing.missing, keys=np.zeros(3, np.uint64)))).keys is None


few = st.sampled_from([k << shift for k in range(4) for shift in (0, 1, 40, 62)])
"""Keys that share their last bits, as those of few requests do by chance."""


@given(st.lists(few), st.lists(few))
def test_paired(requests, responses):
    places = paired(np.array(requests, np.uint64), np.array(responses, np.uint64))
    assert places.tolist() == [requests.index(key) if key in requests else -1 for key in responses]


def requests_of(keys, now, d=2):
    n = np.array(keys, np.int64)
    codes = np.stack([n * 3 + i for i in range(d)], axis=1).astype(np.int32)
    return Requests(n.astype(np.uint64), n * 10, np.full(len(n), now), codes)


def responses_of(keys, now):
    """As many rows of each as its key says."""
    n = np.repeat(np.array(keys, np.int64), np.array(keys, np.int64) % 3 + 1)
    within = np.concatenate([np.arange(k % 3 + 1) for k in keys]) if len(keys) else n
    words = tuple(f"w{k}" for k in keys)
    codes = np.array([words.index(f"w{k}") for k in n.tolist()], np.int32)
    block = Block(np.stack((n, within), 1).astype(float), np.zeros((len(n), 2), np.bool_), (Codes(codes, words),))
    return Responses(n.astype(np.uint64), n * 10 + 5, np.full(len(n), now), n * 100, block)


def rows_of(responses):
    if responses is None:
        return []
    block = responses.block
    words = [block.categorical[0].values[code] for code in block.categorical[0].codes.tolist()]
    columns = (
        responses.keys.tolist(),
        responses.times.tolist(),
        responses.panes.tolist(),
        block.numeric[:, 1].tolist(),
        words,
    )
    return list(zip(*columns, strict=True))


def whole(keys):
    return sorted((k, k * 10 + 5, k * 100, float(i), f"w{k}") for k in keys for i in range(k % 3 + 1))


keys = st.sets(st.integers(0, 30))


@given(keys, keys, st.data())
def test_who_meets_does_not_depend_on_batches_nor_on_order(asked, answered, data):
    things = data.draw(st.permutations([(0, k) for k in asked] + [(1, k) for k in answered]))
    bounds = [0, *sorted(data.draw(st.lists(st.integers(0, len(things)), max_size=6))), len(things)]
    state, met, lonely, unanswered = b"", [], [], 0
    over = (1000, (0, 0))  # at last, all has waited long enough
    for now, (a, b) in [*enumerate(pairwise(bounds)), over]:
        mine = [[k for kind, k in things[a:b] if kind == one] for one in (0, 1)]
        pending = Pending.unpacked(state) if state else Pending()
        requests = requests_of(mine[0], now) if mine[0] or now % 2 else None
        responses = responses_of(mine[1], now) if mine[1] or now % 2 else None
        pending, found = pending.meet(requests, responses, now=now, wait=100)
        rows = rows_of(found.responses)
        met += rows
        assert found.codes.tolist() == [[row[0] * 3, row[0] * 3 + 1] for row in rows]
        lonely, unanswered = lonely + rows_of(found.lonely), unanswered + found.unanswered
        assert found.outdated == 0
        assert bool(pending) == (pending.due(0) is not None)
        state = pending.packed()
    assert not Pending.unpacked(state)
    assert sorted(met) == whole(asked & answered)
    assert sorted(lonely) == whole(answered - asked)
    assert unanswered == len(asked - answered)


def test_waiting_ends_when_it_is_due():
    pending, _ = Pending().meet(requests_of([1], 5), None, now=5, wait=100)
    pending, _ = pending.meet(None, responses_of([2], 7), now=7, wait=100)
    assert pending.due(100) == 105
    pending, met = pending.meet(None, None, now=104, wait=100)
    assert (met.unanswered, met.lonely) == (0, None)
    pending, met = pending.meet(None, responses_of([1], 105), now=105, wait=100)  # just in time
    assert rows_of(met.responses) == whole([1])
    assert pending.due(100) == 107
    pending, met = pending.meet(None, None, now=107, wait=100)
    assert rows_of(met.lonely) == whole([2])
    assert not pending


def test_the_oldest_go_when_there_are_too_many():
    pending = Pending()
    for now in range(5):
        pending, met = pending.meet(
            requests_of([now], now), responses_of([3 * now + 30], now), now=now, wait=100, most=3
        )
        assert met.unanswered == (now >= 3)
        assert rows_of(met.lonely) == (whole([3 * (now - 3) + 30]) if now >= 3 else [])
    assert pending.requests.keys.tolist() == [2, 3, 4]


def test_a_request_that_is_sent_again_is_one_request():
    pending, _ = Pending().meet(requests_of([1, 1], 0), None, now=0, wait=100)
    pending, _ = pending.meet(requests_of([1], 1), None, now=1, wait=100)
    assert pending.requests.since.tolist() == [0]
    assert pending.meet(None, None, now=100, wait=100)[1].unanswered == 1


def test_other_columns_than_before_begin_anew():
    pending, _ = Pending().meet(requests_of([1], 0), responses_of([2], 0), now=0, wait=100)
    narrow = Block(np.zeros((1, 1)), np.zeros((1, 1), np.bool_))
    row = Responses(
        np.array([9], np.uint64), np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), narrow
    )
    pending, met = pending.meet(requests_of([8], 1, d=3), row, now=1, wait=100)
    assert met.outdated == 1 + len(whole([2]))
    assert pending.requests.keys.tolist() == [8]
    assert pending.responses.keys.tolist() == [9]


def test_categories_that_have_gone_do_not_stay_in_the_state():
    pending = Pending()
    for now in range(0, 3000, 3):
        pending, _ = pending.meet(None, responses_of([now], now), now=now, wait=30)
        pending = Pending.unpacked(pending.packed())
    assert len(pending.packed()) < 1000
