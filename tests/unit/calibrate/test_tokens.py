"""Token sequences from ``.jsonl``: padding, masks, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amctc.calibrate.samples import InputSpec, open_samples
from amctc.errors import InputError, UsageError

INT = np.dtype(np.int64)
IDS = InputSpec("input_ids", ("N", "T"), INT)
MASK = InputSpec("attention_mask", ("N", "T"), INT)
FIXED = (InputSpec("input_ids", ("N", 6), INT), InputSpec("attention_mask", ("N", 6), np.dtype(np.float32)))


@pytest.fixture
def file(tmp_path):
    """``file(*rows)``: a .jsonl file of these rows."""

    def write(*rows: object) -> str:
        path = tmp_path / "t.jsonl"
        path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
        return str(path)

    return write


def joined(samples, name):
    return np.concatenate([batch[name] for batch in samples]).tolist()


def test_padded_to_the_longest_with_a_mask(file) -> None:
    path = file({"input_ids": [5, 6, 7]}, "", {"input_ids": [8]}, {"input_ids": [9, 9]})
    samples = open_samples(path, (IDS, MASK))
    assert joined(samples, "input_ids") == [[5, 6, 7], [8, 0, 0], [9, 9, 0]]
    assert joined(samples, "attention_mask") == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]
    assert {a.dtype for batch in samples for a in batch.values()} == {INT}


def test_padded_to_what_the_model_fixes(file) -> None:
    path = file({"input_ids": [5, 6, 7]}, {"input_ids": [8]})
    samples = open_samples(path, FIXED)
    assert joined(samples, "input_ids") == [[5, 6, 7, 0, 0, 0], [8, 0, 0, 0, 0, 0]]
    assert joined(samples, "attention_mask") == [[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    with pytest.raises(InputError, match="sample 2 has 7 numbers in 'input_ids', the model takes 6"):
        open_samples(file({"input_ids": [1]}, {"input_ids": [1] * 7}), FIXED)


def test_a_mask_that_is_given_stays(file) -> None:
    path = file({"input_ids": [5, 6], "attention_mask": [0, 1]}, {"input_ids": [8], "attention_mask": [1]})
    assert joined(open_samples(path, (IDS, MASK)), "attention_mask") == [[0, 1], [1, 0]]


def test_one_input_may_be_a_bare_list_and_labels_may_be_there(file) -> None:
    assert joined(open_samples(file([1, 2], [3]), [IDS]), "input_ids") == [[1, 2], [3, 0]]
    samples = open_samples(file({"input_ids": [1, 2], "y": 3}, {"input_ids": [3], "y": 0}), [IDS])
    assert samples.labels.tolist() == [3, 0]


def test_samples_of_higher_rank_are_stacked(file) -> None:
    spec = InputSpec("boxes", ("N", 2, 2), np.dtype(np.float32))
    path = file({"boxes": [[1, 2], [3, 4]]}, {"boxes": [[5, 6], [7, 8.5]]})
    assert joined(open_samples(path, [spec]), "boxes") == [[[1, 2], [3, 4]], [[5, 6], [7, 8.5]]]


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=20))
def test_the_mask_gives_the_sequences_back(tmp_path_factory, sequences) -> None:
    path = tmp_path_factory.mktemp("t") / "t.jsonl"
    path.write_text("".join(json.dumps({"input_ids": s}) + "\n" for s in sequences))
    samples = open_samples(path, (IDS, MASK))
    ids, mask = np.array(joined(samples, "input_ids")), np.array(joined(samples, "attention_mask"), bool)
    assert ids.shape == (len(sequences), max(map(len, sequences)))
    assert [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)] == sequences
    assert not ids[~mask].any()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["{"], "line 1 is no JSON"),
        (["[" * 100_000], "line 1 is no JSON"),
        ([{"input_ids": [1]}, 3], "line 2 is no object"),
        ([{}], "line 1 is no object"),
        ([{"input_ids": []}], "line 1 has no numbers"),
        ([{"input_ids": ["a"]}], "line 1 has no numbers"),
        ([{"input_ids": [1, [2]]}], "line 1 has no numbers in 'input_ids', or lists of different lengths"),
        ([{"input_ids": [10**30]}], "line 1 has no numbers"),
        ([{"input_ids": [1]}, {"input_ids": [1], "y": 1}], "line 2 has input_ids of rank 1, y of rank 0, the first"),
        ([{"input_ids": [1]}, {"input_ids": [[1]]}], "line 2 has input_ids of rank 2"),
        ([{"ids": [1]}], "no array for input 'input_ids'"),
        ([{"input_ids": [1], "text": [2]}], "arrays that are no input: 'text'"),
        ([{"input_ids": [1.5]}], "wants int64, got float64"),
        ([""], "no lines"),
    ],
)
def test_refused(file, rows, words) -> None:
    with pytest.raises(InputError, match=words):
        open_samples(file(*rows), [IDS])


def test_only_sequences_are_padded(file) -> None:
    spec = InputSpec("boxes", ("N", None, 2), np.dtype(np.float32))
    with pytest.raises(InputError, match=r"samples of shapes \[1, 2\] and \[2, 2\]"):
        open_samples(file({"boxes": [[1, 2]]}, {"boxes": [[1, 2], [3, 4]]}), [spec])


def test_options_that_do_not_apply(file) -> None:
    with pytest.raises(UsageError, match=r"describe \.bin files"):
        open_samples(file([1]), [IDS], input_shape="input_ids:1,1")
