"""The small pool that the tests of `nopsd inspect` show."""

import pytest


@pytest.fixture(scope="module")
def view(make_view):
    return make_view()
