"""A real PostgreSQL, read through Spark by its own driver."""

import getpass
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Column, Model
from reference.sources import open_source
from reference.store import Store

ROWS = 3000
MODEL = Model(
    name="m",
    features=(
        Column(name="delay", type="numeric"),
        Column(name="price", type="numeric"),
        Column(name="carrier", type="categorical"),
        Column(name="late", type="categorical"),
    ),
)
_FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
pytestmark = [
    pytest.mark.spark,
    pytest.mark.skipif(not _FOUND, reason="PostgreSQL is not installed: apt-get install postgresql"),
]


def flights() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    at = pd.Timestamp("2013-01-01") + pd.to_timedelta(rng.integers(0, 10 * 86_400, ROWS), unit="s")
    return pd.DataFrame(
        {
            "id": np.arange(ROWS),
            "delay": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(10, 30, ROWS)),
            "price": rng.integers(100, 99_999, ROWS) / 100,
            "carrier": rng.choice(np.array(["AA", "UA", "Ä,\"'", None], object), ROWS),
            "late": rng.random(ROWS) < 0.5,
            "Day Of": pd.Series(at).where(pd.Series(np.arange(ROWS) % 100 > 0)),
        }
    )


@pytest.fixture(scope="module")
def database():
    """A server of our own: as a user who is not root, for PostgreSQL refuses root."""
    home = Path(tempfile.mkdtemp(prefix="driftline-postgres-"))
    user = "postgres" if os.getuid() == 0 else getpass.getuser()
    if os.getuid() == 0:
        shutil.chown(home, user, user)
    password = secrets.token_hex(8)
    (home / "pw").write_text(password)
    (home / "pw").chmod(0o644)
    binaries, data = _FOUND[-1], home / "data"
    run = {"user": user, "cwd": home, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "America/New_York"}}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "reader", "--auth=scram-sha-256", f"--pwfile={home / 'pw'}", "-E", "UTF8"],
        check=True, capture_output=True, **run,
    )  # fmt: skip
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    log = (home / "log").open("wb")
    settings = [f"port={port}", "listen_addresses=127.0.0.1", f"unix_socket_directories={home}", "fsync=off"]
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, *(part for one in settings for part in ("-c", one))],
        stdout=log, stderr=log, **run,
    )  # fmt: skip

    def psql(script: str) -> subprocess.CompletedProcess:
        command = [
            binaries / "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "reader",
            "-v",
            "ON_ERROR_STOP=1",
            "postgres",
        ]
        return subprocess.run(
            command,
            input=script,
            text=True,
            capture_output=True,
            check=False,
            env={**os.environ, "PGPASSWORD": password},
        )

    try:
        deadline = time.monotonic() + 60
        while psql("select 1").returncode:
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.1)
        made = psql(
            "create table flights (id int, delay double precision, price numeric(10, 2), carrier text, late boolean, "
            '"Day Of" timestamp, zoned timestamptz);\n'
            'copy flights (id, delay, price, carrier, late, "Day Of") from stdin with (format csv);\n'
            + flights().to_csv(index=False, header=False)
            + "\\.\n"
            """update flights set zoned = "Day Of" at time zone 'UTC';"""
        )
        assert made.returncode == 0, made.stderr
        yield f"jdbc:postgresql://127.0.0.1:{port}/postgres", password
    finally:
        server.terminate()
        server.wait(30)
        log.close()
        shutil.rmtree(home)


SCRIPT = """
import json, os, sys, tempfile
from datetime import UTC, datetime
from pyspark.sql import SparkSession
from reference.data import Data
from reference.errors import UnusableData
from reference.schema import Model
from reference.sources import open_source
from reference.store import Store
from streaming.jars import jars
os.environ["TZ"] = "Asia/Kolkata"
jar = str(jars("jdbc-postgresql")[0])
spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config("spark.jars", jar)
    .config("spark.sql.session.timeZone", "Europe/Berlin").getOrCreate())
asked = json.loads(sys.stdin.read())
for one in asked["data"]:
    with tempfile.TemporaryDirectory() as staging:
        try:
            source = open_source(Data.model_validate(one), Model.model_validate(asked["model"]), spark=spark, staging=staging)
            table = source.table()
            again = open_source(Data.model_validate(one), Model.model_validate(asked["model"]), spark=spark, staging=staging)
            print(json.dumps({"rows": table.to_pandas().astype(object).where(table.to_pandas().notna(), None).to_dict("list"),
                "origin": dict(source.origin), "same": again.table().equals(table)}, default=float))
        except UnusableData as error:
            print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="module")
def answers(database):
    """What each section gives; Spark takes a driver only when it starts, so it is one of its own."""
    url, password = database
    secret = {"password": {"env": "OUR_PASSWORD"}}
    whole = {"url": url, "options": {"user": "reader", "dbtable": "flights"}, "secrets": secret}
    bounds = {"partitionColumn": "id", "lowerBound": "0", "upperBound": str(ROWS), "numPartitions": "3"}
    window = {"since": "2013-01-03", "until": "2013-01-05T12:00:00Z"}
    sections = {
        "whole": whole,
        "parts": {**whole, "options": {**whole["options"], **bounds}},
        "query": {**whole, "options": {"user": "reader", "query": "select *, id as more from flights where id < 100"}},
        "window": {**whole, "time": "Day Of", **window},
        "zoned": {**whole, "time": "zoned", **window},
        "last": {**whole, "time": "Day Of", "last": "2d", "lastFrom": "data"},
        "mapped": {**whole, "columns": {"delay": "dealy"}},
        "no table": {**whole, "options": {"user": "reader", "dbtable": "nosuch"}},
        "neither": {**whole, "options": {"user": "reader"}},
        "wrong user": {**whole, "options": {"user": "nobody", "dbtable": "flights"}},
    }
    said = json.dumps({"data": list(sections.values()), "model": MODEL.model_dump(mode="json")})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        input=said, text=True, capture_output=True, check=False, env={**os.environ, "OUR_PASSWORD": password},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert password not in done.stdout
    return dict(zip(sections, map(json.loads, done.stdout.splitlines()), strict=True))


def rows(known: pd.DataFrame) -> list[tuple]:
    cells = known[["delay", "price", "carrier", "late"]].astype(object)
    return sorted(cells.where(cells.notna(), None).itertuples(index=False, name=None), key=repr)


def read(answer) -> list[tuple]:
    assert "error" not in answer, answer
    return sorted(zip(*(answer["rows"][name] for name in ("delay", "price", "carrier", "late")), strict=True), key=repr)


@pytest.mark.parametrize("name", ["whole", "parts"])
def test_a_table_is_read_whole_and_in_the_same_order_every_time(answers, name):
    assert read(answers[name]) == rows(flights())
    assert answers[name]["same"]
    assert answers[name]["origin"]["dbtable"] == "flights"
    assert "reader" not in json.dumps(answers[name]["origin"])


def test_a_query_is_read(answers):
    assert read(answers["query"]) == rows(flights().iloc[:100])


@pytest.mark.parametrize("name", ["window", "zoned"])
def test_the_window_is_the_same_in_every_time_zone(answers, name):
    """Of the server, the JVM, the session and this process."""
    known = flights()
    at = known["Day Of"]
    assert read(answers[name]) == rows(known[(at >= "2013-01-03") & (at < "2013-01-05 12:00")])
    assert answers[name]["origin"]["rowsWithoutTime"] == ROWS // 100


def test_last_ends_with_the_data(answers):
    known = flights()
    newest = known["Day Of"].max()
    assert read(answers["last"]) == rows(known[known["Day Of"] > newest - pd.Timedelta("2d")])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mapped", "lacks the column 'dealy' of 'delay' (did you mean 'delay'?). It has 'id', 'delay'"),
        ("no table", 'relation "nosuch" does not exist'),
        ("neither", "need either `dbtable` or `query`"),
        ("wrong user", 'password authentication failed for user "nobody"'),
    ],
)
def test_what_the_database_refuses_is_told(answers, name, message):
    assert message in answers[name]["error"]


def test_without_spark_there_is_no_database():
    data = Data(url="jdbc:postgresql://h/d", options={"dbtable": "t"})
    with pytest.raises(UnusableData, match="is read through Spark, and this command has none"):
        open_source(data, MODEL)


def test_the_command_refreshes_from_a_database(database, tmp_path):
    url, password = database
    config = tmp_path / "m.yaml"
    config.write_text(
        f"""\
apiVersion: driftline.io/v1
kind: ModelMonitor
metadata: {{name: m}}
spec:
  model: {{features: [{{name: delay, type: numeric}}, {{name: price, type: numeric}}, {{name: carrier, type: categorical}}]}}
  reference:
    store: {tmp_path / "store"}
    data:
      url: {url}
      options: {{user: reader, dbtable: flights}}
      secrets: {{password: {{env: OUR_PASSWORD}}}}
"""
    )
    command = [sys.executable, "-m", "workflows.cli", "reference", "refresh", "--config", str(config), "--json"]
    bare = {name: value for name, value in os.environ.items() if name != "OUR_PASSWORD"}
    without = subprocess.run(command, capture_output=True, text=True, check=False, env=bare)
    assert without.returncode == 2
    assert "OUR_PASSWORD" in without.stderr
    assert "Traceback" not in without.stderr
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OUR_PASSWORD": password}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert password not in done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert (said["outcome"], said["rows"]) == ("promoted", ROWS)
    known = Store(str(tmp_path / "store")).load("m")
    assert known.version == said["current"]
    assert known.request["delay"].mean == pytest.approx(flights()["delay"].mean(), rel=1e-12)
    assert known.request["carrier"].missing == flights()["carrier"].isna().sum()
