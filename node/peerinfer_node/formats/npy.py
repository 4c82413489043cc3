"""Readers of .npy and .npz. No claim of a header is believed before the bytes behind it have been counted."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.lib import format as npy_format

from peerinfer.binding import WILDCARD, quoted
from peerinfer.errors import InputError
from peerinfer.limits import KIB, TENSOR_RANK_MAX, TENSORS_MAX
from peerinfer.strings import slot_for
from peerinfer.tensors import ITEM_BYTES
from peerinfer_node.formats.columns import Column, FileColumn, StringColumn, shaped
from peerinfer_node.formats.source import Array, MemoryBudget, SourceFile, reason_of, size_text

NPY_HEADER_BYTES_MAX = 10 * KIB
"""NumPy's own limit for headers that are read without trust."""

DEFLATE_RATIO_MAX = 1040
"""Deflate cannot shrink data further than 1032 to 1; a member that claims more is a lie."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class _Header:
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran: bool
    size_bytes: int


def open_npy(file: SourceFile) -> dict[str, Column]:
    prefix = file.read(0, min(file.size_bytes, NPY_HEADER_BYTES_MAX)).tobytes()
    return {WILDCARD: _file_column(file, 0, file.size_bytes, prefix, file.path, None)}


def open_npz(file: SourceFile) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    with _archive(file) as archive:
        members = archive.infolist()
        if len(members) > TENSORS_MAX:
            raise InputError(f"{file.path} holds {len(members)} arrays; peerinfer takes at most {TENSORS_MAX}")
        for member in members:
            name = member.filename.removesuffix(".npy")
            where = f"{file.path}: array {quoted(name)}"
            if name == member.filename:
                raise InputError(f"{file.path}: {quoted(name)} is not an array; save it with numpy.savez")
            if name in columns:
                raise InputError(f"{where} is there twice; save each once")
            columns[name] = _member_column(file, archive, member, where)
    if not columns:
        raise InputError(f"{file.path} holds no arrays; save them with numpy.savez")
    return columns


def _archive(file: SourceFile) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file.open())
    except InputError:
        raise
    except Exception as error:  # zipfile meets hostile bytes with a dozen kinds of error
        raise InputError(f"{file.path} is not a whole .npz file ({reason_of(error)}); save or copy it anew") from None


def _member_column(file: SourceFile, archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Column:
    if member.flag_bits & 1:
        raise InputError(f"{where} is encrypted; save it with numpy.savez")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{where} is compressed in a way that NumPy does not use; save it with numpy.savez_compressed")
    if member.header_offset + member.compress_size > file.size_bytes:
        raise InputError(f"{where} claims bytes behind the end of the file: it is truncated; copy it anew")
    if member.file_size > member.compress_size * DEFLATE_RATIO_MAX + KIB:
        raise InputError(
            f"{where} claims {size_text(member.file_size)}, more than its {size_text(member.compress_size)} can hold; "
            "the file is damaged or forged"
        )
    try:
        with archive.open(member) as stream:
            prefix = stream.read(min(member.file_size, NPY_HEADER_BYTES_MAX))
    except Exception as error:  # as above
        raise InputError(f"{where} cannot be read ({reason_of(error)}); save or copy it anew") from None
    if member.compress_type == zipfile.ZIP_DEFLATED:
        header, start = _header(prefix, member.file_size, where)
        return _readable(_CompressedColumn(file, member, header, start, where), header, where)
    signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(member.header_offset, _LOCAL_HEADER.size).data)
    offset = member.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
    if signature != b"PK\x03\x04" or offset + member.file_size > file.size_bytes:
        raise InputError(f"{where} does not lie where the file says; the file is damaged")
    return _file_column(file, offset, member.file_size, prefix, where, member.CRC)


def _file_column(file: SourceFile, offset: int, size: int, prefix: bytes, where: str, crc: int | None) -> Column:
    header, start = _header(prefix, size, where)
    column = FileColumn(
        file,
        offset + start,
        header.dtype.name,
        header.shape,
        stored=header.dtype,
        fortran=header.fortran,
        crc=crc,
        crc_offset=offset,
    )
    return _readable(column, header, where)


def _readable(column: Column, header: _Header, where: str) -> Column:
    """The column as it is taken: strings in slots, all else as it is."""
    if not _is_text(header.dtype):
        return column
    try:
        return StringColumn(column, slot_for(header.dtype.itemsize), where)
    except InputError as error:
        raise InputError(f"{where} has room for {error}") from None


def _is_text(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind in "US" and dtype.itemsize > 0


class _CompressedColumn:
    """A compressed member: held whole once it is wanted."""

    def __init__(self, file: SourceFile, member: zipfile.ZipInfo, header: _Header, start: int, where: str) -> None:
        self.dtype = header.dtype.name
        self.shape = header.shape
        self._file = file
        self._member = member
        self._header = header
        self._start = start
        self._where = where
        self._held: Array | None = None

    def prepare(self, budget: MemoryBudget) -> None:
        budget.take(self._header.size_bytes, self._where)
        data = np.empty(self._header.size_bytes, np.uint8)
        with _archive(self._file) as archive:
            try:
                with archive.open(self._member) as stream:
                    stream.read(self._start)
                    _fill(stream, data.data)
                    stream.read(1)  # the checksum is looked at when the end is met
            except Exception as error:  # as above
                raise InputError(f"{self._where} is damaged ({reason_of(error)}); save or copy it anew") from None
        self._held = shaped(data, self._header.dtype, self.shape, fortran=self._header.fortran)

    def read(self, start: int, stop: int) -> Array:
        if self._held is None:
            self.prepare(MemoryBudget())
        assert self._held is not None
        return self._held[start:stop] if self.shape else self._held


def _fill(stream: IO[bytes], target: memoryview) -> None:
    position = 0
    while position < len(target):
        piece = stream.read(min(1 << 20, len(target) - position))
        if not piece:
            raise EOFError("it ends too early")
        target[position : position + len(piece)] = piece
        position += len(piece)


def _header(prefix: bytes, holds: int, where: str) -> tuple[_Header, int]:
    """The header at the start of `prefix` and where the data begins; `holds` counts all bytes there really are."""
    if prefix[:6] != npy_format.MAGIC_PREFIX or len(prefix) < 12:
        raise InputError(f"{where} is not a NumPy array; save it with numpy.save or numpy.savez")
    version = prefix[6]
    length, start = (
        (int.from_bytes(prefix[8:10], "little"), 10) if version == 1 else (int.from_bytes(prefix[8:12], "little"), 12)
    )
    if version not in (1, 2):
        raise InputError(f"{where} is in version {version} of NumPy's format; save plain numbers with numpy.save")
    if length > NPY_HEADER_BYTES_MAX - start:
        raise InputError(f"{where} has a header of {length} bytes, more than any array of numbers needs; save it anew")
    if start + length > len(prefix):
        raise InputError(f"{where} is truncated in its header; save or copy it anew")
    stream = io.BytesIO(prefix[8 : start + length])
    try:
        reader = npy_format.read_array_header_1_0 if version == 1 else npy_format.read_array_header_2_0
        shape, fortran, dtype = reader(stream)
    except Exception:  # the header is a Python literal: tokenizer, parser, recursion and NumPy all have their say
        raise InputError(f"{where} has a damaged header; save or copy it anew") from None
    if dtype.hasobject:
        raise InputError(f"{where} holds Python objects, which are not read; save numbers, or texts by dtype=str")
    if dtype.name not in ITEM_BYTES and not _is_text(dtype):
        return _Header(dtype, _checked(shape, where), fortran, 0), start + length
    shape = _checked(shape, where)
    size = math.prod(shape) * dtype.itemsize
    if size != holds - start - length:
        raise InputError(
            f"{where} claims {size_text(size)} of data and holds {size_text(holds - start - length)}; "
            "it is truncated or damaged, save or copy it anew"
        )
    return _Header(dtype, shape, fortran, size), start + length


def _checked(shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    if len(shape) > TENSOR_RANK_MAX or not all(type(dim) is int and 0 <= dim < 1 << 48 for dim in shape):
        raise InputError(f"{where} has a shape that no array has; save or copy it anew")
    return shape
