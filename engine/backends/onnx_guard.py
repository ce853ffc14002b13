"""Refuse ONNX files that point at other files.

An initializer may name an external file, which the runtime would then read with
this process's rights (CVE-2022-25882, CVE-2024-27318 and later ones).  Our models
never do.  Reading the few protobuf fields that matter takes less than depending on
the onnx package in every installation.  Field numbers: onnx.proto3, IR version 10.
"""

from __future__ import annotations

from collections.abc import Iterator

from avff.engine.errors import BackendError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Message kinds, and which field of each leads to which kind.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "tensor": {},
}
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_LARGEST_KEY = 0xFFFF_FFFF


def refuse_external_data(content: bytes, name: str) -> None:
    """Check that an ONNX file holds all of its own data.

    Args:
        content: the file.
        name: what to call it in messages.

    Raises:
        BackendError: it names external data, has sparse tensors, or is no ONNX file.
    """
    pending = [("model", memoryview(content))]
    while pending:
        kind, message = pending.pop()
        for field, wire, value in _fields(message, name):
            if kind == "tensor" and field in (_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION) and value:
                raise BackendError(f"{name}: refers to data in another file; export it as one file")
            child = _CHILDREN[kind].get(field)
            if child == "sparse":
                raise BackendError(f"{name}: holds sparse tensors, which are not supported")
            if child is not None and wire == _BYTES and isinstance(value, memoryview):
                pending.append((child, value))


def _fields(message: memoryview, name: str) -> Iterator[tuple[int, int, int | memoryview]]:
    """Yield field number, wire type and value of each field of a protobuf message."""
    at = 0
    try:
        while at < len(message):
            key, at = _varint(message, at)
            if key > _LARGEST_KEY:
                # Protobuf drops the upper bits and would read another field here than we do.
                raise ValueError("a field number is too large")
            field, wire = key >> 3, key & 7
            value: int | memoryview
            if wire == _VARINT:
                value, at = _varint(message, at)
            else:
                size, at = _size(message, at, wire)
                if at + size > len(message):
                    raise ValueError("a field reaches beyond its message")
                value, at = message[at : at + size], at + size
            yield field, wire, value
    except (IndexError, ValueError) as error:
        raise BackendError(f"{name}: is not an ONNX file ({error})") from error


def _size(message: memoryview, at: int, wire: int) -> tuple[int, int]:
    if wire == _BYTES:
        return _varint(message, at)
    if wire in (_FIXED64, _FIXED32):
        return (8 if wire == _FIXED64 else 4), at
    raise ValueError(f"unknown wire type {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
