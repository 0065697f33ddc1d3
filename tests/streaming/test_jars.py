"""Jars come by the lock file or not at all."""

import hashlib
import shutil
from pathlib import Path

import pytest

from streaming import jars as module
from streaming.errors import JarError
from streaming.jars import Jar, cache_directory, jars, locked, main


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def lock(tmp_path, monkeypatch):
    """Replaces the lock file by a set ``few`` of what is given."""

    def write(*few: Jar) -> Path:
        path = tmp_path / "jars.lock"
        lines = [
            f'{{ group = "{jar.group}", artifact = "{jar.artifact}", version = "{jar.version}", sha256 = "{jar.sha256}" }},'
            for jar in few
        ]
        path.write_text("[few]\ntransitive = false\nroots = []\njars = [\n" + "\n".join(lines) + "\n]\n")
        monkeypatch.setattr(module, "LOCK", path)
        return path

    return write


@pytest.fixture
def no_java(monkeypatch):
    """Fails the test when a Java would be started."""

    def refuse():
        pytest.fail("a Java was asked for")

    monkeypatch.setattr(module, "java", refuse)


@pytest.fixture
def repository(monkeypatch):
    """Stands in for Ivy: what `served` holds is put where Ivy would put it."""
    served: dict[str, bytes] = {}

    def ivy(workshop, wanted, *, transitive, on_jar=lambda _: None):
        assert not transitive
        for jar in wanted:
            if jar.path in served:
                target = workshop / "out" / jar.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(served[jar.path])
                on_jar(jar.artifact)

    monkeypatch.setattr(module, "_ivy", ivy)
    return served


def jar(artifact: str, content: bytes) -> Jar:
    return Jar("org.example", artifact, "1.0", hashlib.sha256(content).hexdigest())


def test_every_locked_jar_has_a_hash_and_a_place_of_its_own():
    sets = locked()
    assert set(sets) == {"spark-kafka", "local-files", "kafka-broker", "jdbc-postgresql", "s3-server"}
    for wanted in sets.values():
        assert len({jar.path for jar in wanted}) == len(wanted)
        assert all(len(jar.sha256) == 64 for jar in wanted)
    assert {"kafka_2.13", "kafka-server", "scala-library", "log4j-slf4j-impl"} <= {
        j.artifact for j in sets["kafka-broker"]
    }


def test_the_lock_names_no_registry():
    assert "://" not in module.LOCK.read_text()


@pytest.mark.usefixtures("no_java")
def test_what_is_cached_is_not_fetched_again():
    """`make test` has fetched them: neither a request nor a Java now."""
    for name in locked():
        assert all(path.is_file() for path in jars(name))


def test_a_second_fetch_touches_nothing(cache, lock, repository, monkeypatch):
    wanted = [jar("one", b"1"), jar("two", b"2")]
    lock(*wanted)
    repository.update({wanted[0].path: b"1", wanted[1].path: b"2"})
    first = {path: path.stat().st_mtime_ns for path in jars("few")}
    monkeypatch.setattr(module, "_ivy", lambda *_, **__: pytest.fail("fetched again"))
    assert {path: path.stat().st_mtime_ns for path in jars("few")} == first
    assert [path.read_bytes() for path in first] == [b"1", b"2"]
    assert sorted(path.name for path in cache.iterdir()) == ["jars"]  # nothing of the fetching is left


def test_only_what_is_missing_or_damaged_is_fetched(cache, lock, repository):
    wanted = [jar("one", b"1"), jar("two", b"2")]
    lock(*wanted)
    repository.update({wanted[0].path: b"1", wanted[1].path: b"2"})
    one, two = jars("few")
    untouched = one.stat().st_mtime_ns
    two.write_bytes(b"half")
    jars("few")
    assert two.read_bytes() == b"2"
    assert one.stat().st_mtime_ns == untouched


def test_other_bytes_than_the_locked_ones_are_refused_and_nothing_is_kept(cache, lock, repository):
    good, bad = jar("good", b"good"), jar("bad", b"bad")
    lock(good, bad)
    repository.update({good.path: b"good", bad.path: b"worse"})
    with pytest.raises(JarError, match=r"org\.example:bad:1\.0 is not what was locked") as error:
        jars("few")
    assert bad.sha256 in str(error.value)
    assert hashlib.sha256(b"worse").hexdigest() in str(error.value)
    assert list(cache.rglob("*.jar")) == []


def test_an_unknown_set_is_answered_with_the_known_ones():
    with pytest.raises(
        JarError,
        match=r"no set of jars 'kafka' .* it has jdbc-postgresql, kafka-broker, local-files, s3-server, spark-kafka",
    ):
        jars("kafka")


def test_a_jar_that_the_repository_does_not_have_is_named(cache, lock, tmp_path, monkeypatch):
    """Real Ivy, on a repository that is an empty directory."""
    (tmp_path / "empty").mkdir()
    settings = tmp_path / "settings.xml"
    settings.write_text(
        '<ivysettings><settings defaultResolver="here"/><resolvers>'
        f'<filesystem name="here"><artifact pattern="{tmp_path}/empty/[artifact]-[revision].[ext]"/></filesystem>'
        "</resolvers></ivysettings>",
    )
    monkeypatch.setenv("DRIFTLINE_IVY_SETTINGS", str(settings))
    lock(jar("nowhere", b""))
    with pytest.raises(JarError, match=r"could not fetch org\.example:nowhere:1\.0"):
        jars("few")


def test_real_ivy_fetches_from_a_repository_of_files(cache, lock, tmp_path, monkeypatch, capsys):
    wanted = jar("some-thing-0-10_2.13", b"a jar")
    (tmp_path / "some-thing-0-10_2.13-1.0.jar").write_bytes(b"a jar")
    settings = tmp_path / "settings.xml"
    settings.write_text(
        '<ivysettings><settings defaultResolver="here"/><resolvers>'
        f'<filesystem name="here"><artifact pattern="{tmp_path}/[artifact]-[revision].[ext]"/></filesystem>'
        "</resolvers></ivysettings>",
    )
    monkeypatch.setenv("DRIFTLINE_IVY_SETTINGS", str(settings))
    lock(wanted)
    [path] = jars("few")
    assert path.read_bytes() == b"a jar"
    assert "fetching jars of few: 1/1 some-thing-0-10_2.13-1.0.jar" in capsys.readouterr().err


def test_the_lock_is_rewritten_from_its_roots(cache, tmp_path, monkeypatch):
    """Comments and roots stay, jars and hashes are what was found."""
    path = tmp_path / "jars.lock"
    path.write_text('# why\n\n[few]\ntransitive = false\nroots = [\n  "org.example:a-0-10_2.13:1.0",\n]\njars = []\n')

    def ivy(workshop, wanted, *, transitive, on_jar=None):
        target = workshop / "out" / wanted[0].path
        target.parent.mkdir(parents=True)
        target.write_bytes(b"a jar")

    monkeypatch.setattr(module, "_ivy", ivy)
    module.lock(path)
    assert locked(path) == {"few": [Jar("org.example", "a-0-10_2.13", "1.0", hashlib.sha256(b"a jar").hexdigest())]}
    assert path.read_text().startswith("# why\n\n[few]\n")
    again = path.read_text()
    module.lock(path)
    assert path.read_text() == again


def test_the_command_says_what_is_wrong_in_one_line(cache, capsys, monkeypatch):
    shutil.rmtree(cache, ignore_errors=True)
    assert main(["nothing"]) == 1
    assert capsys.readouterr().err.startswith("there is no set of jars 'nothing'")


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("DRIFTLINE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory() == Path("/somewhere/driftline")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_directory() == Path.home() / ".cache" / "driftline"
    monkeypatch.setenv("DRIFTLINE_CACHE", "~/own")
    assert cache_directory() == Path.home() / "own"
