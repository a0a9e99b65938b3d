"""Damage to files, drawn by a generator: bits, bytes, blocks, numbers, lengths."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

NUMBERS = (0, 1, 2, 3, 7, 8, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Values that counts, sizes and offsets are damaged to."""
HEAD_BYTES = 600
"""Half of the damage is done here, where most formats say what they are."""


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Bytes with one kind of damage, sometimes two or three: much damage is easily noticed."""
    content = bytearray(data)
    for _ in range(1 if random.random() < 0.7 else int(random.integers(2, 4))):
        if content:
            _damage(content, random)
    return bytes(content)


def mutate_folder(folder: Path, random: np.random.Generator) -> None:
    """Damage one file of a store, more often its metadata than its chunks, or remove it."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    metadata = [file for file in files if file.suffix == ".json" or file.name.startswith(".z")]
    chosen = metadata if random.random() < 0.5 else files
    file = chosen[int(random.integers(len(chosen)))]
    if random.random() < 0.05:
        file.unlink()
    else:
        file.write_bytes(mutate(file.read_bytes(), random))


def _damage(content: bytearray, random: np.random.Generator) -> None:
    size = len(content)
    place = int(random.integers(min(size, HEAD_BYTES) if random.random() < 0.5 else size))
    length = int(random.integers(1, 65))
    kind = int(random.integers(10))
    if kind <= 1:
        content[place] ^= 1 << int(random.integers(8))
    elif kind == 2:
        content[place] = int(random.integers(256))
    elif kind == 3:
        content[place : place + length] = random.integers(0, 256, length, dtype=np.uint8).tobytes()[: size - place]
    elif kind == 4:
        content[place : place + length] = bytes(min(length, size - place))
    elif kind == 5:
        del content[place:]
    elif kind == 6:
        del content[place : place + length]
    elif kind == 7:
        source = int(random.integers(size))
        content[place:place] = content[source : source + length]
    elif kind == 8:
        _write_number(content, place, random)
    else:
        _change_digits(content, place, random)


def _write_number(content: bytearray, place: int, random: np.random.Generator) -> None:
    number, order = NUMBERS[int(random.integers(len(NUMBERS)))], "<>"[int(random.integers(2))]
    code = "HIQ"[int(random.integers(3))]
    packed = struct.pack(order + code, min(number, 2 ** (8 * struct.calcsize(code)) - 1))
    content[place : place + len(packed)] = packed[: len(content) - place]


def _change_digits(content: bytearray, place: int, random: np.random.Generator) -> None:
    """Another number where digits stand, in XML, JSON or a table; a letter changed elsewhere."""
    digits = [at for at in range(place, min(len(content), place + 200)) if 48 <= content[at] <= 57]
    if digits:
        content[digits[0] : digits[0] + 1] = str(NUMBERS[int(random.integers(len(NUMBERS)))]).encode()
    else:
        content[place] = int(random.integers(32, 127))
