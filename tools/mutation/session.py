"""Pytest plugin of :mod:`tools.mutation`: collects the tests once, and runs them for each mutant in a fork.

``AMCTC_MUTANTS`` names a file with the mutants, one a line; the status each fork exits with goes to ``statuses.json``.
What no test has touched yet is forked, so caches are cold. A first fork runs all tests on the code as it is and notes
in ``reached.json`` which functions each of them calls.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

SUPPRESSED = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
settings.register_profile(
    "mutation", max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=SUPPRESSED
)
REACHED, STATUSES = Path("reached.json"), Path("statuses.json")
OVERHEAD, PATIENCE = 20.0, 10.0
"""CPU seconds of any fork, and how much longer than unmutated tests those of a mutant may run."""
WALL = 30
"""How much longer than its CPU limit a fork may take before it counts as asleep: machines are busy."""


def pytest_runtestloop(session: pytest.Session) -> bool:
    """Run every mutant instead of the tests."""
    if session.testsfailed:
        raise session.Interrupted("tests could not be collected")
    items = {item.nodeid: item for item in session.items}
    if not REACHED.exists() and forked(lambda: recorded(session)):
        raise session.Interrupted("a test fails without a mutant")
    known = json.loads(REACHED.read_text("utf-8"))
    statuses: dict[str, int | None] = {}
    for mutant in Path(os.environ["AMCTC_MUTANTS"]).read_text("utf-8").split():
        function = mutant.partition("__mutmut_")[0]
        reaching = [name for name in items if function in known[name]["functions"]]
        reaching.sort(key=lambda name: known[name]["seconds"])
        statuses[mutant] = tested(session, mutant, [items[name] for name in reaching], known) if reaching else None
        STATUSES.write_text(json.dumps(statuses), "utf-8")
        print(f"  {statuses[mutant]} {mutant}", file=sys.__stderr__, flush=True)
    return True


def recorded(session: pytest.Session) -> bool:
    """Run the tests on the code as it is; what functions each calls, and its CPU time, go to ``reached.json``."""
    from mutmut.mutation.trampoline import set_mutant_under_test
    from mutmut.state import state

    set_mutant_under_test("stats")
    called, known = state()._stats, {}
    for item, following in zip(session.items, [*session.items[1:], None], strict=True):
        called.clear()
        start = time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        known[item.nodeid] = {"functions": sorted(called), "seconds": round(time.process_time() - start, 3)}
        if session.testsfailed:
            print(f"\n{item.nodeid} fails without a mutant", file=sys.__stderr__, flush=True)
            return True
    REACHED.write_text(json.dumps(known), "utf-8")
    return False


def tested(session: pytest.Session, mutant: str, items: Sequence[pytest.Item], known: dict[str, Any]) -> int:
    """What the tests of a mutant exit with: 1 when one fails, a negative signal when they crash or take too long."""
    from mutmut.mutation.trampoline import set_mutant_under_test

    limit = round(OVERHEAD + PATIENCE * sum(known[item.nodeid]["seconds"] for item in items))

    def run() -> bool:
        set_mutant_under_test(mutant)
        used = int(time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (used + limit, used + limit + 5))
        signal.alarm(WALL * limit)
        return fails(session, items)

    return forked(run)


def fails(session: pytest.Session, items: Iterable[pytest.Item]) -> bool:
    """Whether a test fails; those after it are not run."""
    rest = list(items)
    for item, following in zip(rest, [*rest[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            return True
    return False


def forked(run: Callable[[], bool]) -> int:
    """Exit status of a fork that is silent and exits with what ``run`` says, with 1 when it raises."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        status = int(run())
    finally:
        os._exit(status)
