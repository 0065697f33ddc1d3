"""Pages that are made from the code are what the code makes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def make_docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "tools/make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_page(golden, make_docs: ModuleType):
    golden("docs/configuration.md", make_docs.configuration())


def test_detectors_page(golden, make_docs: ModuleType):
    golden("docs/detectors.md", make_docs.detectors())


def test_cli_page(golden, make_docs: ModuleType):
    golden("docs/cli.md", make_docs.cli())
