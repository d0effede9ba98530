from __future__ import annotations

import pytest

from kaiyuan.corpus.sources import document_id
from kaiyuan.corpus.split import is_held_out
from kaiyuan.errors import DataError


def test_held_out_share_is_met_and_nested() -> None:
    ids = [document_id(str(number)) for number in range(20_000)]
    small, large = ({key for key in ids if is_held_out(key, share)} for share in (0.03, 0.1))
    assert abs(len(small) / len(ids) - 0.03) < 0.005
    assert small < large
    assert not any(is_held_out(key, 0.0) for key in ids)
    assert all(is_held_out(key, 1.0) for key in ids)


def test_held_out_edges_and_errors() -> None:
    assert is_held_out("0" * 16, 1e-9)
    assert not is_held_out("f" * 16, 0.999)
    assert is_held_out("7fffffffffffffff" + "ab" * 24, 0.5)  # a whole SHA-256: the first 16 digits decide
    assert not is_held_out("8000000000000000", 0.5)
    with pytest.raises(DataError, match="not a hash"):
        is_held_out("document-1", 0.5)
    with pytest.raises(DataError, match="not between 0 and 1"):
        is_held_out("0" * 16, 1.5)
