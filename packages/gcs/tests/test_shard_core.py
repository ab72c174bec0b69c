"""What one write does to the rows it meets, checked against a model without I/O."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rostral_gcs.backends.base import Row
from rostral_gcs.errors import ConflictError, GcsError, ImmutableError
from rostral_gcs.shard_core import Op, WritePlanner, decode_results, encode_results
from rostral_gcs.tables.registry import table_spec

KV = table_spec("kv")
FUNCTIONS = table_spec("functions")

ops = st.builds(
    Op,
    st.just(KV),
    st.sampled_from([b"a", b"b", b"c"]),
    st.one_of(st.none(), st.binary(max_size=2)),
    st.one_of(st.none(), st.integers(0, 12)),
)


@given(st.lists(ops, max_size=40))
def test_versions_follow_a_simple_model(sequence: list[Op]) -> None:
    planner = WritePlanner(0, {})
    model: dict[bytes, tuple[bytes, int]] = {}
    applied = 0
    for op in sequence:
        present = model.get(op.key, (b"", 0))[1]
        result = planner.plan(op)
        if op.expected_version is not None and op.expected_version != present:
            assert isinstance(result, ConflictError)
            assert result.current_version == present
        elif op.value is None:
            assert result == 0
            applied += op.key in model
            model.pop(op.key, None)
        else:
            applied += 1
            assert result == applied
            model[op.key] = (op.value, applied)
    assert [change.sequence for change in planner.changes] == list(range(1, applied + 1))


@given(st.lists(ops, max_size=40))
def test_a_remembered_answer_is_the_answer(sequence: list[Op]) -> None:
    planner = WritePlanner(5, {(KV.number, b"a"): Row(b"a", b"x", 3)})
    results = [planner.plan(op) for op in sequence]
    again = decode_results(encode_results(results), sequence)
    assert len(again) == len(results)
    for first, second in zip(results, again, strict=True):
        if isinstance(first, ConflictError):
            assert isinstance(second, ConflictError)
            assert second.current_version == first.current_version
        else:
            assert first == second


def test_a_thousand_puts_are_remembered_in_few_bytes() -> None:
    assert len(encode_results(list(range(7, 1007)))) == 13


def test_an_immutable_row_accepts_only_its_own_bytes() -> None:
    planner = WritePlanner(9, {(FUNCTIONS.number, b"f"): Row(b"f", b"code", 4)})
    assert planner.plan(Op(FUNCTIONS, b"f", b"code", None)) == 4
    refused = planner.plan(Op(FUNCTIONS, b"f", b"other", None))
    assert isinstance(refused, ImmutableError)
    assert planner.changes == []
    (again,) = decode_results(encode_results([refused]), [Op(FUNCTIONS, b"f", b"other", None)])
    assert isinstance(again, GcsError)
