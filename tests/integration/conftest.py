import pytest
from swarm import Swarm


@pytest.fixture
def swarm(tmp_path):
    """No process yet; all that the test starts are gone after it, and none may have shown a traceback."""
    with Swarm(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory, request):
    """A swarm for all tests of a module."""
    with Swarm(tmp_path_factory.mktemp(request.module.__name__)) as made:
        yield made
