"""What contracts say of themselves."""

from __future__ import annotations

from amctc.contract import Changes, Contract, Exact, Fact, Lossy, Rounding


def test_effects_in_words() -> None:
    assert [str(e) for e in (Exact(), Rounding(), Rounding(0.5), Lossy(1.0), Changes("prunes channels"))] == [
        "exact",
        "rounding, 2 units of the last place",
        "rounding, 0.5 units of the last place",
        "lossy, 1 quantizer steps",
        "changes results: prunes channels",
    ]


def test_a_fact_prints_its_name() -> None:
    assert str(Fact("no batch-norm", lambda graph: None)) == "no batch-norm"


def test_a_contract_promises_nothing_but_its_effect() -> None:
    contract = Contract(Exact())
    assert (contract.requires, contract.ensures, contract.keeps, contract.idempotent) == ((), (), (), True)
