"""Makes this folder importable, so that every test can use `models.py`, `swarm.py` and their like."""

import hypothesis
import pytest

# The same examples in every run, and none given up because the machine was busy; `--hypothesis-seed` tries others.
hypothesis.settings.register_profile("peerinfer", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("peerinfer")


@pytest.fixture
def swarm(tmp_path):
    """No process yet; all that the test starts are gone after it, and none may have shown a traceback."""
    from swarm import Swarm

    with Swarm(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory, request):
    """A swarm for all tests of a module."""
    from swarm import Swarm

    with Swarm(tmp_path_factory.mktemp(request.module.__name__)) as made:
        yield made
