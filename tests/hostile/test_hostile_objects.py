"""Objects that are broken or made to harm: a status each from the listener, a reason each from the decoders."""

from __future__ import annotations

import random
import socket
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless

from cxr.errors import DecoderError, ImageError
from cxr.pixels.recipe import DEFAULT_RECIPE
from inference.worker.decode_pool import DecodePool
from listener.reception import file_header

CR = "1.2.840.10008.5.1.4.1.1.1"
ECHO = "1.2.840.10008.1.1"
IMPLICIT, EXPLICIT, DEFLATED, BIG = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"),
    *("1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"),
)
JPEG, JPEG12, LOSSLESS, LOSSLESS57, JPEG_LS, J2K, HTJ2K, RLE = (
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57"),
    *("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", str(RLELossless)),
)
SYNTAXES = [IMPLICIT, EXPLICIT, DEFLATED, BIG, JPEG, JPEG12, LOSSLESS, LOSSLESS57, JPEG_LS, J2K, HTJ2K, RLE]
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
STATUSES = {0x0000, 0xA700, 0xA900, 0xC210}
"""What a peer's object may be answered with; 0xC211, a fault of ours, is none of them."""

pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's, about what we make


@dataclass(frozen=True)
class Case:
    """One object as a peer sends it."""

    data: bytes  # the data set
    syntax: str
    sop_class: str
    instance: bytes  # in the command


class Objects:
    """Draws objects from real files."""

    def __init__(self, sources: list[bytes], wire: Any) -> None:
        self.wire = wire
        self.cases = [case for case in map(as_sent, sources) if case is not None]
        self.changes: list[Callable[[random.Random, Case], Case]] = [
            *(flip, flip, cut, splice, lie_about_length, lie_about_length, change_vr, swap_syntax),
            *(extreme_numbers, extreme_numbers, odd_numbers_in_text, nest, charset, odd_uid, nul_bytes),
            *(deflate, deflate_bomb, huge_header, image_bomb, broken_stream, broken_stream, broken_items, odd_groups),
        ]

    def draw(self, number: int) -> tuple[str, Case]:
        chance = self.wire.numbered(number)
        change = self.changes[number % len(self.changes)]
        # Every second case is the example's, which is always there.
        case = self.cases[0] if chance.random() < 0.5 else chance.choice(self.cases)
        if case.syntax != DEFLATED:  # under an identifier of its own, so that no two cases are a resend
            uid = f"2.25.{self.wire.seed}{number}".encode()
            case = replace(put(case, 0x00080018, uid + b"\0" * (len(uid) % 2), b"UI"), instance=uid)
        return change.__name__, change(chance, case)


@cache
def as_sent(content: bytes) -> Case | None:
    """A Part 10 file as a sender would send it; None: it is none."""
    if content[128:132] != b"DICM":
        return None
    try:
        header = dcmread(BytesIO(content), stop_before_pixels=True)
        start = 144 + header.file_meta.FileMetaInformationGroupLength
        return Case(
            content[start:],
            str(header.file_meta.TransferSyntaxUID),
            str(header.SOPClassUID),
            str(header.SOPInstanceUID).encode(),
        )
    except Exception:  # noqa: BLE001 (the shared folder has broken files: they are of no use as a source)
        return None


def elements(data: bytes, syntax: str) -> Iterator[tuple[int, int, int, int]]:
    """Give offset, tag, where the value begins, and its length, of the elements at the top."""
    order, is_implicit = (">" if syntax == BIG else "<"), syntax == IMPLICIT
    at = 0
    while syntax != DEFLATED and at + 8 <= len(data):
        group, number = struct.unpack_from(order + "HH", data, at)
        if is_implicit:
            value, (length,) = at + 8, struct.unpack_from(order + "L", data, at + 4)
        elif data[at + 4 : at + 6] in LONG:
            if at + 12 > len(data):
                return
            value, (length,) = at + 12, struct.unpack_from(order + "L", data, at + 8)
        else:
            value, (length,) = at + 8, struct.unpack_from(order + "H", data, at + 6)
        yield at, group << 16 | number, value, length
        if length == 0xFFFFFFFF:
            return
        at = value + length


def put(case: Case, tag: int, value: bytes, vr: bytes = b"UN") -> Case:
    """Replace an element, or add it in its place."""
    order = ">" if case.syntax == BIG else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if case.syntax == IMPLICIT:
        head += struct.pack(order + "L", len(value))
    elif vr in LONG:
        head += vr + bytes(2) + struct.pack(order + "L", len(value))
    else:
        head += vr + struct.pack(order + "H", len(value) & 0xFFFF)
    for at, found, start, length in elements(case.data, case.syntax):
        if found == tag and length != 0xFFFFFFFF:
            return replace(case, data=case.data[:at] + head + value + case.data[start + length :])
        if found > tag:
            return replace(case, data=case.data[:at] + head + value + case.data[at:])
    return replace(case, data=case.data + head + value)


def flip(chance: random.Random, case: Case) -> Case:
    data = bytearray(case.data)
    for _ in range(chance.randint(1, 25)):
        data[chance.randrange(min(len(data), chance.choice([400, 3000, len(data)])))] = chance.randrange(256)
    return replace(case, data=bytes(data))


def cut(chance: random.Random, case: Case) -> Case:
    return replace(case, data=case.data[: chance.randrange(min(len(case.data), chance.choice([60, 2000, 10**9])))])


def splice(chance: random.Random, case: Case) -> Case:
    data = bytearray(case.data)
    at, size = chance.randrange(min(len(data), 4000)), chance.randint(1, 600)
    what = chance.choice([b"", bytes(size), chance.randbytes(size), bytes(data[:size]) * 3, bytes(data[at:]) * 2])
    data[at : at + chance.choice([0, 0, size])] = what
    return replace(case, data=bytes(data))


def lie_about_length(chance: random.Random, case: Case) -> Case:
    found = list(elements(case.data, case.syntax))
    if not found:
        return flip(chance, case)
    data, order = bytearray(case.data), ">" if case.syntax == BIG else "<"
    for at, _, value, length in chance.sample(found, min(len(found), chance.randint(1, 3))):
        lie = chance.choice(
            [0, 1, length + 1, length + 8, max(length - 1, 0), 0xFFFE, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF]
        )
        if value - at == 12 or case.syntax == IMPLICIT:
            struct.pack_into(order + "L", data, value - 4, lie & 0xFFFFFFFF)
        else:
            struct.pack_into(order + "H", data, value - 2, lie & 0xFFFF)
    return replace(case, data=bytes(data))


def change_vr(chance: random.Random, case: Case) -> Case:
    found = list(elements(case.data, case.syntax))
    if case.syntax == IMPLICIT or not found:
        return flip(chance, case)
    data = bytearray(case.data)
    for at, *_ in chance.sample(found, min(len(found), chance.randint(1, 6))):
        data[at + 4 : at + 6] = chance.choice([*LONG, b"US", b"IS", b"DS", b"PN", b"ZZ", b"\0\0", chance.randbytes(2)])
    return replace(case, data=bytes(data))


def swap_syntax(chance: random.Random, case: Case) -> Case:
    return replace(case, syntax=chance.choice(SYNTAXES))


NUMBERS = [0x00280002, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00280120, 0x00280121]


def extreme_numbers(chance: random.Random, case: Case) -> Case:
    for tag in chance.sample(NUMBERS, chance.randint(1, 5)):
        value = chance.choice([0, 1, 2, 7, 8, 12, 16, 17, 32, 64, 255, 32767, 32768, 65535, chance.randrange(65536)])
        packed = chance.choice([struct.pack("<H", value)] * 6 + [b"", b"\1", struct.pack("<HH", value, 1), bytes(4)])
        case = put(case, tag, packed, chance.choice([b"US", b"US", b"US", b"SS", b"UN"]))
    if chance.random() < 0.3:
        frames = chance.choice([b"2147483647", b"-1 ", b"0 ", b"1e9 ", b"\xff\xff", b""])
        case = put(case, 0x00280008, frames, b"IS")
    return case


TEXTS = [0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281054, 0x00281056, 0x20500020, 0x00280004]


def odd_numbers_in_text(chance: random.Random, case: Case) -> Case:
    odd = [
        b"nan ",
        b"inf ",
        b"1e400 ",
        b"-1e-400",
        b"",
        b"0 ",
        b"-0",
        b"1\\2\\3\\4",
        b"9" * 400,
        b"\xff\xfe",
        b"1,5 ",
        b"\\" * 60,
    ]
    for tag in chance.sample(TEXTS, chance.randint(1, 4)):
        value = chance.choice(odd)
        case = put(case, tag, value + b" " * (len(value) % 2), b"DS")
    if chance.random() < 0.5:  # a look-up table that contradicts itself
        entry = struct.pack("<HH2sH", 0x28, 0x3002, b"US", 6) + chance.randbytes(6)
        size = chance.choice([0, 1, 2, 512, 1000])
        entry += struct.pack("<HH2sHL", 0x28, 0x3006, b"OW", 0, size) + chance.randbytes(size)
        table = struct.pack("<HHL", 0xFFFE, 0xE000, len(entry)) + entry
        case = put(case, chance.choice([0x00283000, 0x00283010]), table, b"SQ")
    return case


ITEM, UNDEFINED_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0), struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM_END, SEQUENCE_END = struct.pack("<HHL", 0xFFFE, 0xE00D, 0), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def nest(chance: random.Random, case: Case) -> Case:
    """Sequences in sequences, or very many items, at a place that is looked at or not."""
    tag = chance.choice([0x00082218, 0x00540220, 0x0018A001, 0x00081115, 0x00091001])
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    start += struct.pack("<L", 0xFFFFFFFF) if case.syntax == IMPLICIT else b"SQ\0\0\xff\xff\xff\xff"
    depth, width = chance.choice([(1, 1), (40, 1), (900, 1), (6000, 1), (1, 5000), (2, 20_000), (1, 150_000)])
    inside = (start + UNDEFINED_ITEM) * depth + start + ITEM * width
    ends = SEQUENCE_END + (ITEM_END + SEQUENCE_END) * depth
    whole = inside + chance.choice([ends, ends, ends[: len(ends) // 2], b""])
    at = next((at for at, found, *_ in elements(case.data, case.syntax) if found > tag), len(case.data))
    return replace(case, data=case.data[:at] + whole + case.data[at:])


def charset(chance: random.Random, case: Case) -> Case:
    terms = [b"ISO_IR 192", b"ISO_IR 100", b"ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"GB18030", b"GBK", b"nonsense"]
    terms += [
        b"ISO_IR 999",
        b"utf-8",
        b"\xff\xff",
        b"ISO 2022 IR 6\\ISO 2022 IR 87\\ISO 2022 IR 13",
        b"\\" * 30,
        b"idna",
    ]
    value = chance.choice(terms)
    case = put(case, 0x00080005, value + b" " * (len(value) % 2), b"CS")
    for tag, vr in ((0x00100010, b"PN"), (0x00100020, b"LO"), (0x0008103E, b"LO"), (0x00080050, b"SH")):
        text = chance.choice(
            [b"\x1b$B", b"\x1b(", b"\x1b$)C\xb1\xe8", b"\xe2\x28\xa1", b"\xff" * 8, b"\xf0\x9f\x92", b""]
        )
        text = (text + chance.randbytes(chance.randint(0, 30)))[:60]
        case = put(case, tag, text + b" " * (len(text) % 2), vr)
    return case


def odd_uid(chance: random.Random, case: Case) -> Case:
    names = [b"../../../../evil", b"/etc/passwd", b"..\\..\\evil", b"1.2.3/../4", b"C:\\evil.dcm", b"1.2.3\0/../evil"]
    names += [
        b"",
        b"\0" * 64,
        b"1" * 65,
        b"1.2.3.4" * 40,
        b".",
        b"..",
        b"1..2",
        b" 1.2.3 ",
        b"1.2.3;rm -rf",
        b"%2e%2e%2f",
    ]
    uid = chance.choice(names)
    tag = chance.choice([0x00080018, 0x00080018, 0x0020000D, 0x0020000E, 0x00080016])
    case = put(case, tag, uid + b"\0" * (len(uid) % 2), b"UI")
    return replace(case, instance=uid[:64]) if tag == 0x00080018 and chance.random() < 0.7 else case


def nul_bytes(chance: random.Random, case: Case) -> Case:
    data = bytearray(case.data)
    found = [(value, length) for _, _, value, length in elements(case.data, case.syntax) if 0 < length < 200]
    for value, length in chance.sample(found, min(len(found), chance.randint(1, 10))):
        for at in range(value, min(value + length, len(data)), chance.randint(1, 3)):
            data[at] = 0
    return replace(case, data=bytes(data))


def deflate(chance: random.Random, case: Case) -> Case:
    deflater = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    stream = bytearray(deflater.compress(case.data[:400_000]) + deflater.flush())
    for _ in range(chance.choice([0, 1, 8])):
        stream[chance.randrange(len(stream))] = chance.randrange(256)
    return replace(
        case, data=bytes(stream[: chance.choice([len(stream), chance.randrange(len(stream))])]), syntax=DEFLATED
    )


@cache
def zeros(mib: int) -> bytes:
    return bytes(mib << 20)


def deflate_bomb(chance: random.Random, case: Case) -> Case:
    """Zeros by the megabyte, before the pixels or as pixels."""
    if case.syntax != EXPLICIT:
        case = replace(case, data=b"", syntax=EXPLICIT)
    size = chance.choice([2, 30, 40, 80])
    tag, vr = chance.choice([(0x00091001, b"OB"), (0x00100020, b"UN"), (0x7FE00010, b"OW"), (0x00091001, b"SQ")])
    case = put(case, tag, zeros(size), vr)
    deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return replace(case, data=deflater.compress(case.data) + deflater.flush(), syntax=DEFLATED)


def huge_header(chance: random.Random, case: Case) -> Case:
    sides = chance.choice([(65535, 65535), (65535, 1), (1, 65535), (8000, 8000), (4000, 4000)])
    for tag, value in zip((0x00280010, 0x00280011), sides, strict=True):
        case = put(case, tag, struct.pack("<H", value), b"US")
    return case


@cache
def picture() -> np.ndarray[Any, Any]:
    grid = np.add.outer(np.arange(96), np.arange(80) * 2)
    return (grid % 251).astype(np.uint8)


@cache
def streams() -> dict[str, bytes]:
    """A small picture in every compressed syntax."""
    grey, deep = picture(), picture().astype(np.uint16) * 16
    rle = Dataset()
    rle.SOPInstanceUID, rle.PixelData = "1.2.3", grey.tobytes()
    return {
        JPEG: imagecodecs.jpeg8_encode(grey),
        LOSSLESS: imagecodecs.ljpeg_encode(deep),
        LOSSLESS57: imagecodecs.ljpeg_encode(grey),
        JPEG_LS: imagecodecs.jpegls_encode(deep),
        J2K: imagecodecs.jpeg2k_encode(deep, level=0, codecformat="j2k"),
        HTJ2K: imagecodecs.htj2k_encode(deep),
        RLE: struct.pack("<16L", 1, 64, *[0] * 14) + imagecodecs.packbits_encode(grey.tobytes()),
    }


def compressed(case: Case, syntax: str, frame: bytes, *, rows: int = 96, columns: int = 80) -> Case:
    """The example's header over a code stream of ours."""
    bits = 8 if syntax in (JPEG, LOSSLESS57, RLE) else 16
    end = next((at for at, tag, *_ in elements(case.data, case.syntax) if tag >= 0x7FE00000), len(case.data))
    case = replace(case, data=case.data[:end])
    if case.syntax in (IMPLICIT, BIG, DEFLATED):
        case = replace(case, data=b"", syntax=EXPLICIT)
        case = put(put(case, 0x00080016, CR.encode() + b"\0", b"UI"), 0x00080018, b"2.25.99\0", b"UI")
        case = replace(case, sop_class=CR, instance=b"2.25.99")
    numbers = (1, rows, columns, bits, bits if bits == 8 else 12, bits - 1 if bits == 8 else 11, 0)
    for tag, value in zip(NUMBERS, numbers, strict=False):
        case = put(case, tag, struct.pack("<H", value), b"US")
    case = put(case, 0x00280004, b"MONOCHROME2 ", b"CS")
    head = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    return replace(case, data=case.data + head + encapsulate([frame]) + SEQUENCE_END, syntax=syntax)


def image_bomb(chance: random.Random, case: Case) -> Case:
    """A code stream of a few bytes that promises gigapixels; the header says the same, or not."""
    side = chance.choice([65535, 65500, 30000, 4000])
    says = chance.choice([(side, side), (96, 80)])
    syntax = chance.choice([JPEG, LOSSLESS, JPEG_LS, J2K, HTJ2K])
    frame = bytearray(streams()[syntax])
    if syntax in (J2K, HTJ2K):
        at = frame.index(b"\xff\x51")
        struct.pack_into(">2I", frame, at + 6, side, side)
        if chance.random() < 0.5:  # and as many tiles as there can be
            struct.pack_into(">2I", frame, at + 22, chance.choice([1, 7, side]), chance.choice([1, side]))
    else:
        at = next(
            place
            for place in range(len(frame))
            if frame[place] == 0xFF and frame[place + 1] in (0xC0, 0xC1, 0xC3, 0xF7)
        )
        struct.pack_into(">HH", frame, at + 5, side, side)
    return compressed(case, syntax, bytes(frame), rows=says[0], columns=says[1])


def broken_stream(chance: random.Random, case: Case) -> Case:
    """A code stream whose size is right, for the decoder itself to stumble over."""
    syntax = chance.choice(list(streams()))
    frame = bytearray(streams()[syntax])
    for _ in range(chance.randint(1, 12)):
        where = chance.choice([len(frame), min(200, len(frame))])
        frame[chance.randrange(where)] = chance.choice([0, 0xFF, chance.randrange(256)])
    if chance.random() < 0.3:
        del frame[chance.randrange(20, len(frame)) :]
    if chance.random() < 0.2:
        at = chance.randrange(20, len(frame))
        frame[at:at] = chance.randbytes(chance.randint(1, 300))
    return compressed(case, syntax, bytes(frame))


def broken_items(chance: random.Random, case: Case) -> Case:
    """Pixel data whose items, offsets or delimiters lie."""
    syntax = chance.choice(list(streams()))
    whole = compressed(case, syntax, streams()[syntax])
    made = bytearray(whole.data)
    start = made.rindex(struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OB", 0)) + 12
    what = chance.choice(["length", "offsets", "no end", "other tag", "many", "two frames"])
    if what == "length":
        struct.pack_into("<L", made, start + 12, chance.choice([0, 1, 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFE]))
    elif what == "offsets":
        made[start : start + 8] = struct.pack("<HHL4L", 0xFFFE, 0xE000, 16, *[chance.randrange(2**32)] * 4)
    elif what == "no end":
        del made[-8:]
    elif what == "other tag":
        made[start + 8 : start + 12] = chance.randbytes(4)
    elif what == "many":
        made[start:start] = ITEM * chance.choice([10, 20_000])
    else:
        made[start + 8 :] = made[start + 8 : -8] * 2 + SEQUENCE_END
    return replace(whole, data=bytes(made))


def odd_groups(chance: random.Random, case: Case) -> Case:
    """Elements of groups that no data set has: of commands, of the file's own header, delimiters."""
    odd = [
        struct.pack("<HH2sH", 2, 0x10, b"UI", 22) + DEFLATED.encode(),
        struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + BIG.encode() + b"\0",
        struct.pack("<HHL", 0, 0x100, 2) + b"\x01\x00",
        struct.pack("<HH2sH", 2, 0, b"UL", 4) + b"\xff\xff\xff\xff",
        struct.pack("<HH2sH", 8, 0, b"UL", 4) + b"\xff\xff\xff\xff",
        ITEM_END,
        SEQUENCE_END,
        struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 4) + bytes(4),
        b"\xff" * 8,
    ]
    found = [at for at, *_ in elements(case.data, case.syntax)] or [0]
    at = chance.choice([0, 0, chance.choice(found)])
    return replace(case, data=case.data[:at] + chance.choice(odd) + case.data[at:])


def send(port: int, case: Case, wire: Any) -> str:
    """Send one object; give the status and how the association ended, in words."""
    contexts = [(1, ECHO, [IMPLICIT]), (3, case.sop_class, [case.syntax])]
    with socket.create_connection(("127.0.0.1", port), timeout=300) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(wire.associate_rq(contexts))
        stream = connection.makefile("rb")
        kind, answer = read_pdu(stream)
        if kind != 2:
            return f"association answered with PDU {kind}"
        if not is_accepted(answer, 3):
            return "context rejected"
        for message in wire.store_messages(3, case.sop_class, case.instance, case.data):
            connection.sendall(message)
        kind, answer = read_pdu(stream)
        if kind != 4:
            return f"object answered with PDU {kind}"
        status = status_of(answer)
        echo = wire.pdu(
            4, wire.fragment(1, wire.command(0x30, has_data=False, sop_class=ECHO.encode()), is_command=True)
        )
        connection.sendall(echo)
        kind, answer = read_pdu(stream)
        if kind != 4 or status_of(answer) != 0:
            return f"0x{status:04X}, then no echo but PDU {kind}"
        connection.sendall(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
        return f"0x{status:04X}" if read_pdu(stream)[0] == 6 else "no release"


def is_accepted(body: bytes, context: int) -> bool:
    """Whether an A-ASSOCIATE-AC accepts a context (PS3.8 Table 9-18)."""
    at = 68
    while at + 8 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == 0x21 and body[at + 4] == context:
            return body[at + 6] == 0
        at += 4 + length
    return False


def read_pdu(stream: Any) -> tuple[int, bytes]:
    head = stream.read(6)
    return (head[0], stream.read(int.from_bytes(head[2:6]))) if len(head) == 6 else (0, b"")


def status_of(body: bytes) -> int:
    """(0000,0900) Status of a response."""
    at = body.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
    return int.from_bytes(body[at : at + 2], "little")


@pytest.mark.parametrize(
    "count",
    [
        int(__import__("os").environ.get("HC", "500")),
        pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
    ids=["short", "soak"],
)
def test_whatever_an_object_is_it_gets_a_status_and_its_pixels_a_reason(
    besieged: Any, unharmed: Any, wire: Any, sources: list[bytes], tmp_path: Path, count: int
) -> None:
    listener = besieged(accept_all_storage=True, secondary_capture=True, max_object_mib=64)
    before, files, threads = listener.around(), listener.open_files(), listener.threads()
    objects = Objects(sources, wire)
    folder = tmp_path / "decode"
    folder.mkdir()
    answers: Counter[str] = Counter()
    odd: list[tuple[int, str, str]] = []
    preparer = DecodePool(DEFAULT_RECIPE, processes=2, timeout_s=60, max_megapixels=16)

    def one(number: int) -> None:
        name, case = objects.draw(number)
        said = send(listener.port, case, wire)
        answers[said] += 1
        if said not in {f"0x{status:04X}" for status in STATUSES} | {"context rejected"}:
            odd.append((number, name, said))
        path = folder / f"{number}.dcm"
        path.write_bytes(file_header("1.2.3", "1.2.3", case.syntax) + case.data)
        error = preparer.submit(path).exception(300)
        path.unlink()
        answers[type(error).__name__ if error else "pixels"] += 1
        if error is not None and (not isinstance(error, ImageError | DecoderError) or "unexpectedly" in str(error)):
            odd.append((number, name, str(error)))

    with preparer, warnings.catch_warnings(), ThreadPoolExecutor(4) as peers:
        warnings.simplefilter("ignore")
        list(peers.map(one, wire.numbers(count)))
    print(
        f"seed {wire.seed}: {sum(answers.values()) // 2} objects, peak {listener.peak_mib():.0f} MiB, {dict(answers)}"
    )
    assert listener.is_alive(), f"the listener died; seed {wire.seed}"
    assert not odd, f"seed {wire.seed}, {len(odd)}: {sorted(odd)[:12]}"
    unharmed(listener, before, files=files, threads=threads)
