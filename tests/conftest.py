"""What every room's tests may ask for: a real Kafka, and files that are kept in git."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from streaming.broker import EmbeddedKafka

# Laws: the same examples in every run, so that what landed yesterday lands today; `make explore` looks for new ones. How long an
# example takes on a busy machine says nothing about the law.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that a test starts and stops by it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The processes of pytest-xdist get the width of the terminal, and tables would be cut to it.
os.environ.pop("COLUMNS", None)

# Workers of Spark start whatever this names; without it, the system's Python, which has none of our packages.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write golden files instead of comparing with them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the marks that follow from what a test asks for."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for name in ("kafka", "golden"):
            if name in fixtures:
                item.add_marker(name)


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator["EmbeddedKafka"]:
    """A running broker, one for the whole session: give topics names of your own."""
    from streaming.broker import EmbeddedKafka

    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path | str, str], None]:
    """``golden(path, text)``: `text` is what the file `path` (relative to the repository) holds.

    `make golden` rewrites the file instead.
    """
    rewrite = request.config.getoption("--rewrite-golden")

    def check(path: Path | str, text: str) -> None:
        file = request.config.rootpath / path
        if rewrite:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert file.is_file(), f"{path} does not exist: `make golden` writes it"
        assert text == file.read_text(), (
            f"{path} is not what the code makes: `make golden`, then look at the difference"
        )

    return check
