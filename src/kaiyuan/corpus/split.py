"""Which documents are held out: decided by a document's hash alone, so that it holds for every corpus and every run."""

from __future__ import annotations

from kaiyuan.errors import DataError


def is_held_out(document_id: str, share: float) -> bool:
    """Whether the document belongs to the held-out ``share`` (0 to 1).

    ``document_id`` is a hash of the text in hexadecimal, of which the first 16 digits count. A document that is held
    out at one share is held out at every larger one.
    """
    if not 0.0 <= share <= 1.0:
        raise DataError(f"held-out share: {share} is not between 0 and 1")
    try:
        number = int(document_id[:16].ljust(16, "0"), 16)
    except ValueError:
        raise DataError(f"document id {document_id!r} is not a hash in hexadecimal") from None
    return number < share * 2**64
