"""The decoder alone, on one core: messages per second of every wire format.

    make bench-decode
    make bench-decode ARGS=--alternatives   # other ways to read the two envelopes, for docs/decisions/0006-decoding.md

A batch is what Spark hands over (10,000 rows); a figure is the best of several passes. `..._per_cpu_s` divides by the
processor time of this process, which a neighbour on the machine disturbs less than the clock on the wall.
"""

import argparse
import io
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
from _results import Results
from numpy.typing import NDArray

from reference.schema import Column, Model
from streaming import messages
from streaming.messages import Decoder

BATCH = 10_000
HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))
EVENT_TYPE = "org.kubeflow.serving.inference."


@dataclass(frozen=True, slots=True)
class Load:
    """Messages of one kind."""

    values: pa.BinaryArray
    model: Model
    headers: pa.ListArray | None = None


def model(features: int, *, categorical: tuple[int, ...] = (), predictions: int = 0) -> Model:
    def type_of(j: int) -> str:
        return "categorical" if j in categorical else "numeric"

    return Model.model_validate(
        {
            "name": "bench",
            "features": [{"name": f"f{j}", "type": type_of(j)} for j in range(features)],
            "predictions": [Column(name=f"p{j}", type="numeric") for j in range(predictions)],
        }
    )


def envelopes(ids: list[str], bodies: list[str]) -> pa.BinaryArray:
    return pa.array(
        [
            f'{{"type":"request","id":"{id_}","time":{1.7e9 + i / 1000!r},"payload":{body}}}'.encode()
            for i, (id_, body) in enumerate(zip(ids, bodies, strict=True))
        ],
        pa.binary(),
    )


def headers(ids: list[str], kinds: list[str]) -> pa.ListArray:
    fixed = {
        "source": "http://localhost:9081/",
        "namespace": "default",
        "component": "predictor",
        "endpoint": "default",
    }
    rows = []
    for i, (id_, kind) in enumerate(zip(ids, kinds, strict=True)):
        event = {"specversion": "1.0", "id": id_, "type": EVENT_TYPE + kind, "inferenceservicename": "bench", **fixed}
        event["time"] = f"2023-11-14T22:{i // 60_000 % 60:02}:{i // 1000 % 60:02}.{i % 1000:03}456789Z"
        row = [{"key": f"ce_{key}", "value": value.encode()} for key, value in event.items()]
        rows.append([*row, {"key": "content-type", "value": b"application/json"}])
    return pa.array(rows, HEADERS)


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def loads(narrow: int, wide: int, rng: np.random.Generator) -> dict[str, Load]:
    few = rng.normal(size=(narrow, 4)).round(5)
    many = rng.normal(size=(wide, 8, 30)).round(4)
    ids = [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(narrow)]
    rows = [compact({"instances": [row]}) for row in few.tolist()]
    both = [row if i % 2 else compact({"predictions": [i / 7]}) for i, row in enumerate(rows)]
    kinds = ["request" if i % 2 else "response" for i in range(narrow)]
    names = [f"f{j}" for j in range(4)]
    named = [compact({"instances": [dict(zip(names, row, strict=True))]}) for row in few.tolist()]
    tensors = [
        compact(
            {
                "inputs": [
                    {"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in zip(names, row, strict=True)
                ]
            }
        )
        for row in few.tolist()
    ]
    mixed = [
        compact({"instances": [[a, f"carrier {i % 16}", None if i % 10 == 0 else c, d]]})
        for i, (a, _, c, d) in enumerate(few.tolist())
    ]
    structured = [
        compact({"specversion": "1.0", "id": id_, "source": "/s", "type": EVENT_TYPE + "request", "time": f"2023-11-14T22:13:20.{i % 1000:03}Z",
                 "traceparent": id_, "data": {"instances": [row]}}).encode()
        for i, (id_, row) in enumerate(zip(ids, few.tolist(), strict=True))
    ]  # fmt: skip
    envelope = envelopes(ids, rows)
    binary = headers(ids, kinds)
    bad = envelope.to_pylist()
    bad[::10_000] = [value.replace(b"[[", b'[["x",') for value in bad[::10_000]]
    thirds = [envelope[i].as_py() if i % 3 == 0 else both[i].encode() for i in range(narrow)]
    third_headers = [None if i % 3 == 0 else one for i, one in enumerate(binary.to_pylist())]
    return {
        "narrow": Load(envelope, model(4)),
        "wide": Load(envelopes(ids[:wide], [compact({"instances": rows}) for rows in many.tolist()]), model(30)),
        "wide_spaced": Load(
            envelopes(ids[:wide], [json.dumps({"instances": rows}) for rows in many.tolist()]), model(30)
        ),
        "cloudevents_binary": Load(pa.array([b.encode() for b in both], pa.binary()), model(4, predictions=1), binary),
        "cloudevents_structured": Load(pa.array(structured, pa.binary()), model(4)),
        "named": Load(envelopes(ids, named), model(4)),
        "v2_tensors": Load(envelopes(ids, tensors), model(4)),
        "categorical": Load(envelopes(ids, mixed), model(4, categorical=(1,))),
        "mix": Load(pa.array(thirds, pa.binary()), model(4, predictions=1), pa.array(third_headers, HEADERS)),
        "one_bad_in_10000": Load(pa.array(bad, pa.binary()), model(4)),
    }


def best(run: Callable[[], object], passes: int) -> tuple[float, float]:
    """Seconds on the wall and of the processor, each of the best pass."""
    wall, cpu = [], []
    for _ in range(passes):
        started = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    return min(wall), min(cpu)


def decoding(load: Load) -> Callable[[], int]:
    decoder = Decoder(load.model)
    times = np.full(len(load.values), 1_700_000_000_000)

    def run() -> int:
        rows = 0
        for at in range(0, len(load.values), BATCH):
            part = None if load.headers is None else load.headers.slice(at, BATCH)
            decoded = decoder.decode(load.values.slice(at, BATCH), part, times[at : at + BATCH])
            rows += decoded.requests.block.rows + decoded.responses.block.rows
        return rows

    run()
    return run


def alternatives(load: Load, width: int) -> dict[str, Callable[[], object]]:
    """Other ways from the same envelopes to ids and one array of values; none of them checks what the decoder checks."""
    batches = [load.values.slice(at, BATCH).to_pylist() for at in range(0, len(load.values), BATCH)]

    class Payload(msgspec.Struct, gc=False):
        instances: list[list[float]]

    class Envelope(msgspec.Struct, gc=False):
        type: str
        id: str
        time: float
        payload: Payload

    single = msgspec.json.Decoder(Envelope)
    array = msgspec.json.Decoder(list[Envelope])

    def flat(decoded: list[Envelope]) -> tuple[list[str], NDArray[np.float64]]:
        rows = [row for one in decoded for row in one.payload.instances]
        return [one.id for one in decoded], np.fromiter((x for row in rows for x in row), np.float64, width * len(rows))

    ways: dict[str, Callable[[], object]] = {
        "msgspec_joined": lambda: [flat(array.decode(b"[" + b",".join(batch) + b"]")) for batch in batches],
        "msgspec_single": lambda: [flat([single.decode(one) for one in batch]) for batch in batches],
        "json_single": lambda: [[json.loads(one)["payload"]["instances"] for one in batch] for batch in batches],
    }
    try:
        import polars as pl
    except ImportError:
        return ways
    schema = {
        "type": pl.String,
        "id": pl.String,
        "time": pl.Float64,
        "payload": pl.Struct({"instances": pl.List(pl.List(pl.Float64))}),
    }

    def polars() -> list[tuple[list[str], NDArray[np.float64]]]:
        read = []
        for batch in batches:
            frame = pl.read_ndjson(io.BytesIO(b"\n".join(batch)), schema=schema)
            values = frame["payload"].struct.field("instances").explode().explode().to_numpy()
            read.append((frame["id"].to_list(), values))
        return read

    return {**ways, "polars_ndjson": polars}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=7)
    parser.add_argument("--alternatives", action="store_true", help="measure other ways too; writes nothing")
    chosen = parser.parse_args()
    pa.set_cpu_count(1)
    results = Results("decode")
    for name, load in loads(100_000, 10_000, np.random.default_rng(3)).items():
        count = len(load.values)
        if chosen.alternatives and name in ("narrow", "wide"):
            for way, other in alternatives(load, 4 if name == "narrow" else 30).items():
                results.figure(f"{name}_{way}_per_cpu_s", count / best(other, 3)[1])
        wall, cpu = best(decoding(load), chosen.passes)
        results.figure(f"{name}_messages_per_s", count / wall)
        results.figure(f"{name}_messages_per_cpu_s", count / cpu)
        results.note(f"{name}: {count} messages of {load.values.nbytes // count - 4} B")
        if name in ("narrow", "wide"):
            misses, messages._MOST_MISSES = messages._MOST_MISSES, 0  # noqa: SLF001 - nothing is learned
            part = Load(load.values.slice(0, count // 10), load.model)
            results.figure(f"{name}_one_by_one_messages_per_cpu_s", count / 10 / best(decoding(part), 3)[1])
            messages._MOST_MISSES = misses  # noqa: SLF001
    if not chosen.alternatives:
        results.write()
    results.show()


if __name__ == "__main__":
    main()
