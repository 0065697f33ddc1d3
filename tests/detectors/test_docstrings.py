"""Every example in a docstring of this room runs, and every detector has what its reader needs."""

import doctest
import importlib
import pkgutil

import pytest

import detectors
from detectors.describe import catalogues

CATALOGUES = catalogues()
MEMBERS = {f"{kind}-{name}": member for kind, members in CATALOGUES.items() for name, member in members.items()}
MODULES = [module.name for module in pkgutil.walk_packages(detectors.__path__, "detectors.")]


@pytest.mark.parametrize("name", [name for name in MODULES if name != "detectors.for_evidently"])
def test_examples_run(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", MEMBERS)
def test_a_detector_says_what_it_is(name):
    text = MEMBERS[name].__doc__ or ""
    assert "Misleads" in text
    assert "earest neighbour" in " ".join(text.split())  # a line may end between the two words
    assert ">>>" in text
    kind = name.partition("-")[0]
    assert kind != "drift" or ("References" in text and "threshold\n" in text)


@pytest.mark.parametrize("kind", CATALOGUES)
def test_a_catalogue_names_its_members_as_they_name_themselves(kind):
    assert list(CATALOGUES[kind]) == [member.model_fields["name"].default for member in CATALOGUES[kind].values()]
