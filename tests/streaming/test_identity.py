"""Keys of instances: the same everywhere, and all different."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.identity import instance_keys, message_keys

MASK = 2**64 - 1


def siphash(text, key=b"0123456789123456"):
    """SipHash-2-4 once more, out of the paper; pandas' key."""
    data = text.encode()
    k0, k1 = (int.from_bytes(key[i : i + 8], "little") for i in (0, 8))
    v = [0x736F6D6570736575 ^ k0, 0x646F72616E646F6D ^ k1, 0x6C7967656E657261 ^ k0, 0x7465646279746573 ^ k1]

    def turned(x, by):
        return (x << by | x >> (64 - by)) & MASK

    def rounds(n):
        for _ in range(n):
            for a, b, by in ((0, 1, 13), (2, 3, 16)):
                v[a] = (v[a] + v[b]) & MASK
                v[b] = turned(v[b], by) ^ v[a]
            v[0] = turned(v[0], 32)
            for a, b, by in ((2, 1, 17), (0, 3, 21)):
                v[a] = (v[a] + v[b]) & MASK
                v[b] = turned(v[b], by) ^ v[a]
            v[2] = turned(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 255])
    for i in range(0, len(padded), 8):
        word = int.from_bytes(padded[i : i + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def stirred(x):
    """The finaliser of SplitMix64, which pandas puts behind it."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def test_the_oracle_hashes_as_the_paper():
    assert siphash(bytes(range(15)).decode(), bytes(range(16))) == 0xA129CA6149BE45E5


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_keys_of_messages_are_siphash(ids):
    assert message_keys(ids).tolist() == [stirred(siphash(one)) for one in ids]
    assert message_keys(ids).dtype == np.uint64


def test_keys_are_equal_in_every_process():
    code = "import numpy as np; from streaming.identity import instance_keys as k; print(*k(['a', 'ä'], np.array([0, 1, 1]), np.array([0, 0, 7])))"
    ours = instance_keys(["a", "ä"], np.array([0, 1, 1]), np.array([0, 0, 7]))
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert theirs.split() == [str(key) for key in ours.tolist()]
    # What waits in a checkpoint was keyed by an earlier version of us, and of pandas.
    assert ours.tolist() == [13152234246209002182, 1169684041806686525, 9171001160218987933]


def test_neither_ids_nor_instances_share_a_key():
    message, instance = (axis.ravel() for axis in np.meshgrid(np.arange(500), np.arange(500)))
    keys = instance_keys([f"r-{i}" for i in range(500)], message, instance)
    assert len(np.unique(keys)) == len(keys)


def test_a_key_does_not_depend_on_its_company():
    alone = instance_keys(["b"], np.array([0]), np.array([3]))
    assert instance_keys(["a", "b"], np.array([0, 1, 1]), np.array([3, 2, 3]))[2] == alone[0]
    assert len(instance_keys([], np.array([], np.int64), np.array([], np.int64))) == 0
