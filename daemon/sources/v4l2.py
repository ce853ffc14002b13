"""What a camera offers, asked of Video4Linux itself: OpenCV has no call for that.

Structures and numbers: docs.kernel.org, userspace-api/media/v4l, and linux/videodev2.h.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_CAPTURE, _DEVICE_CAPS = 0x1, 0x8000_0000
"""Flags: it gives pictures (not just data beside them); what follows is true of this very node."""
_TYPE_CAPTURE = 1
_DISCRETE = 1
_MOST = 64
"""Answers to one question; a driver that never says no must not hold us up."""


def _iowr(number: int, size: int) -> int:
    return 3 << 30 | size << 16 | ord("V") << 8 | number


_QUERYCAP = 2 << 30 | 104 << 16 | ord("V") << 8
_ENUM_FMT, _ENUM_SIZES, _ENUM_RATES = _iowr(2, 64), _iowr(74, 44), _iowr(75, 52)


@dataclass(frozen=True, slots=True)
class Mode:
    """One format and size of a camera.

    Attributes:
        format: four letters, for example MJPG.
        width, height: of the picture, in px.
        fps: highest picture rate, or None where the driver does not tell.
    """

    format: str
    width: int
    height: int
    fps: float | None


def camera_modes(device: str) -> list[Mode] | None:
    """Return what a device node offers, or None when it gives no pictures.

    Raises:
        OSError: it cannot be opened, or is no Video4Linux device.
    """
    node = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        *_, capabilities, of_node, _ = struct.unpack("16s32s32sIII12s", _ask(node, _QUERYCAP, bytes(104)))
        flags = of_node if capabilities & _DEVICE_CAPS else capabilities
        if not flags & _CAPTURE:
            return None
        return [mode for code in _formats(node) for mode in _sizes(node, code)]
    finally:
        os.close(node)


def _formats(node: int) -> Iterator[int]:
    for index in range(_MOST):
        answer = _answer(node, _ENUM_FMT, struct.pack("II56x", index, _TYPE_CAPTURE))
        if answer is None:
            return
        yield int(struct.unpack_from("I", answer, 44)[0])


def _sizes(node: int, code: int) -> Iterator[Mode]:
    name = code.to_bytes(4, "little").decode("ascii", "replace").strip()
    for index in range(_MOST):
        answer = _answer(node, _ENUM_SIZES, struct.pack("II36x", index, code))
        if answer is None:
            return
        kind, *sides = struct.unpack_from("7I", answer, 8)
        # A range of sizes is told by its largest.
        width, height = sides[:2] if kind == _DISCRETE else (sides[1], sides[4])
        yield Mode(name, width, height, _rate(node, code, width, height))
        if kind != _DISCRETE:
            return


def _rate(node: int, code: int, width: int, height: int) -> float | None:
    """Return the highest rate of a size; drivers tell intervals, 1/30 s and so on."""
    rates = []
    for index in range(_MOST):
        answer = _answer(node, _ENUM_RATES, struct.pack("4I36x", index, code, width, height))
        if answer is None:
            break
        kind, over, under = struct.unpack_from("3I", answer, 16)
        rates += [under / over] if over else []
        if kind != _DISCRETE:  # the first of a range is the shortest interval
            break
    return max(rates, default=None)


def _answer(node: int, request: int, question: bytes) -> bytes | None:
    """Ask for one item of a list; None after the last."""
    try:
        return _ask(node, request, question)
    except OSError:
        return None


def _ask(node: int, request: int, question: bytes) -> bytes:
    answer = bytearray(question)
    fcntl.ioctl(node, request, answer)
    return bytes(answer)
