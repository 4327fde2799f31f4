"""The cyclic collector is paused and comes back as it was."""

import gc

import pytest

from amctc.collector import collector_paused


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_afterwards_as_it_was_before(enabled):
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with collector_paused():
            with pytest.raises(KeyError), collector_paused():
                raise KeyError
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
