"""Drawers share a map and do not meet in it."""

from by_hand import MapState
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql.types import StructType

from streaming.drawers import KEYS, Drawer, Slot

whole = st.integers(-(2**63), 2**63 - 1)
steps = st.lists(st.tuples(st.integers(0, 2), whole, whole, st.sampled_from(["put", "remove"]), st.binary(max_size=3)))


@given(steps)
def test_drawers_are_maps_of_their_own(steps):
    state = MapState()
    drawers, maps = [Drawer(state, number) for number in range(3)], [{} for _ in range(3)]
    for number, a, b, step, value in steps:
        drawer, expected = drawers[number], maps[number]
        if step == "put":
            drawer.updateValue((a, b), (value,))
            expected[a, b] = value
        elif (a, b) in expected:
            drawer.removeKey((a, b))
            del expected[a, b]
        for one, other in zip(drawers, maps, strict=True):
            assert one.containsKey((a, b)) == ((a, b) in other)
            assert not one.containsKey((a, b)) or one.getValue((a, b)) == (other[a, b],)
    width = len(KEYS.split(", "))
    assert all(len(key) == width for key in state)


def test_a_slot_is_one_value():
    state = MapState()
    slot = Slot(Drawer(state, 4))
    Drawer(state, 3).updateValue((0, 0), (b"another's",))
    assert slot.get() is None
    slot.update((b"x",))
    slot.update((b"y",))
    assert slot.get() == (b"y",)
    slot.clear()
    assert slot.get() is None
    assert len(state) == 1


def test_keys_are_what_spark_reads_in_their_schema():
    from streaming.merge import _schema

    assert isinstance(_schema(KEYS), StructType)
    assert (
        _schema(KEYS).simpleString()
        == f"struct<{KEYS.replace(' int', ':int').replace(' long', ':bigint').replace(', ', ',')}>"
    )
