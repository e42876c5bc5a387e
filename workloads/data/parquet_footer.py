"""Reads the key-value metadata of a Parquet file from its footer, which pandas leaves out.

Reference: the Parquet format, FileMetaData, in the compact protocol of Apache Thrift
"""

import os
from pathlib import Path
from typing import Any, BinaryIO

_MAGIC = b"PAR1"
_LENGTH_BYTES = 4  # of the footer, before the magic number at the end
_KEY_VALUE_METADATA = 5  # the field of FileMetaData
_KEY, _VALUE = 1, 2  # the fields of KeyValue

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


def key_value_metadata(file: Path) -> dict[str, str]:
    """Returns the key-value metadata of a Parquet file; empty where it has none, and for an encrypted footer.

    Raises `ValueError` for a file that is not Parquet, or that is damaged.
    """
    with open(file, "rb") as opened:
        footer = _footer(opened, file)
    try:
        fields = _Struct(footer).fields()
        pairs = fields.get(_KEY_VALUE_METADATA, [])
        return {_text(pair[_KEY]): _text(pair.get(_VALUE, b"")) for pair in pairs}
    except (IndexError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} has a footer that cannot be read; the file is damaged") from error


def _footer(opened: BinaryIO, file: Path) -> bytes:
    """Returns the bytes of the footer; those of an empty struct where it is encrypted."""
    size = opened.seek(0, os.SEEK_END)
    tail_bytes = _LENGTH_BYTES + len(_MAGIC)
    opened.seek(max(0, size - tail_bytes))
    tail = opened.read(tail_bytes)
    if tail.endswith(b"PARE"):
        return b"\0"
    length = int.from_bytes(tail[:_LENGTH_BYTES], "little")
    if not tail.endswith(_MAGIC) or length + tail_bytes > size:
        raise ValueError(f"{file} is no Parquet file, or it is cut short")
    opened.seek(size - tail_bytes - length)
    return opened.read(length)


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="replace")  # writers may store bytes under keys of their own


class _Struct:
    """Decodes a struct in the compact protocol, from the start of some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def fields(self) -> dict[int, Any]:
        """Returns the values of the struct by the number of the field: nested structs as dicts, text as bytes."""
        found: dict[int, Any] = {}
        number = 0
        while (header := self._byte()) != 0:
            step = header >> 4
            number = number + step if step else self._zigzag()
            kind = header & 0x0F
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)
        return found

    def _value(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.fields()
        if kind in (_LIST, _SET):
            return self._list()
        if kind == _MAP:
            return self._map()
        if kind in (_TRUE, _FALSE, _BYTE):  # truth values are bytes in lists
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        raise KeyError(kind)

    def _list(self) -> list[Any]:
        header = self._byte()
        size = header >> 4
        size = self._varint() if size == 15 else size
        return [self._value(header & 0x0F) for _ in range(size)]

    def _map(self) -> list[tuple[Any, Any]]:
        size = self._varint()
        kinds = self._byte() if size else 0
        return [(self._value(kinds >> 4), self._value(kinds & 0x0F)) for _ in range(size)]

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def _byte(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        return byte

    def _bytes(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._data):
            raise IndexError("the bytes end before the value")
        value = self._data[self._at : end]
        self._at = end
        return value
