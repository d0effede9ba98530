"""Parquet, row group by row group, only the columns that are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kaiyuan.corpus.sources.document import Item, one_line
from kaiyuan.corpus.sources.parts import Part
from kaiyuan.corpus.sources.rows import Fields
from kaiyuan.corpus.sources.spec import Source
from kaiyuan.errors import DataError

_ROWS = 512


def open_table(path: Path) -> Any:
    """The file as pyarrow's ``ParquetFile``; pyarrow's own error if it is none."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'kaiyuan[parquet]'") from None
    return ParquetFile(path, memory_map=False)


def errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for files that are damaged or of another kind."""
    try:
        from pyarrow import ArrowException
    except ImportError:
        return (OSError,)
    return (ArrowException, OSError, ValueError, TypeError)


def read(part: Part, source: Source) -> Iterator[Item]:
    """Rows of the row groups of ``part``, placed by their number in the file, from 0."""
    try:
        table = open_table(part.path)
    except errors() as error:
        yield source.dead(part.name, "damaged file", f"not a Parquet file: {one_line(error, 300)}")
        return
    fields = Fields(source)
    with table:
        columns = _columns(table.schema_arrow, fields.names())
        stop = table.num_row_groups if part.stop is None else min(part.stop, table.num_row_groups)
        row = sum(table.metadata.row_group(group).num_rows for group in range(part.start))
        lacks_text = not _columns(table.schema_arrow, [source.text])
        for group in range(part.start, stop):
            items = _without_text(table, group, row, part, source) if lacks_text else None
            yield from items or _group(table, group, row, columns, fields, part)
            row += table.metadata.row_group(group).num_rows


def _without_text(table: Any, group: int, row: int, part: Part, source: Source) -> Iterator[Item]:
    """Every row is dead, so that the share of what cannot be read is true."""
    detail = f"no {source.text!r} among its columns ({', '.join(table.schema_arrow.names)[:200]}); name it"
    for number in range(row, row + table.metadata.row_group(group).num_rows):
        yield source.dead(f"{part.name}#{number}", "no text field", detail)


def _columns(schema: Any, wanted: list[str]) -> list[str]:
    """Those of ``wanted`` that the file has; of a field ``a.b`` that is no column, ``a.b`` inside of ``a``."""
    return [name for name in wanted if name in schema.names or ("." in name and name.split(".")[0] in schema.names)]


def _group(table: Any, group: int, row: int, columns: list[str], fields: Fields, part: Part) -> Iterator[Item]:
    source = fields.source
    try:
        for batch in table.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
            for values in _rows(batch):
                place = f"{part.name}#{row}"
                row += 1
                if isinstance(values, UnicodeDecodeError):
                    yield source.dead(place, "not UTF-8", f"{values.reason} at byte {values.start}", values.object)
                else:
                    yield fields.document(values, place)
    except errors() as error:
        yield source.dead(f"{part.name}#{row}", "damaged file", f"row group {group}: {one_line(error, 300)}")


def _rows(batch: Any) -> Iterator[Any]:
    """Every row as a dict, or the error of the one that is not text, without losing its neighbours."""
    try:
        yield from _plain_rows(batch)
        return
    except UnicodeDecodeError:
        pass
    for number in range(batch.num_rows):
        try:
            yield from _plain_rows(batch.slice(number, 1))
        except UnicodeDecodeError as error:
            yield error


def _plain_rows(batch: Any) -> list[dict[str, Any]]:
    names = batch.schema.names
    columns = [_text_column(column).to_pylist() for column in batch.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _text_column(column: Any) -> Any:
    """Strings for what writers without a logical type have stored as bytes."""
    import pyarrow as pa

    return column.view(pa.string()) if pa.types.is_binary(column.type) else column
