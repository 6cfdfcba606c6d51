"""Rewrite association PDUs, read as leniently as DCMTK and Orthanc read them, for a strict decoder.

pynetdicom's decoder raises on items that a receiver must ignore by the standard, and on padding that many modalities
send. `normalise` takes the bytes of one PDU and returns an equivalent PDU of the items that this project uses: AE
titles, presentation contexts, maximum length, implementation identification and role selection. All other items are
left out, which also bounds the cost of decoding.

No network, no logging: bytes in, bytes out.

References
----------
DICOM PS3.8 Sections 9.3.2 (A-ASSOCIATE-RQ), 9.3.3 (-AC), 9.3.4 (-RJ), 9.3.8 (A-ABORT), Annex D (user information;
note 2 of D.2: unrecognised sub-items are ignored), PS3.7 Annex D.3.3 (sub-items), PS3.5 Section 9.1 (UIDs)
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, ABORT = 0x01, 0x02, 0x03, 0x07

HEADER_BYTES = 6
"""PDU type, a reserved byte, and the length of the rest (PS3.8 Section 9.3.1)."""

HEAD_BYTES = 74
"""Header and fixed fields of an A-ASSOCIATE-RQ or -AC, protocol version and AE titles included."""

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
"""The DICOM application context name (PS3.7 Annex A)."""

MAX_CONTEXTS = 128
"""Presentation contexts of one association: their IDs are the odd numbers from 1 to 255."""

MAX_TRANSFER_SYNTAXES = 64
"""Transfer syntaxes that are read of one presentation context; the standard defines fewer."""

DEFAULT_MAX_LENGTH = 16384
"""Maximum length in bytes for a peer that declares none, or one too small for a fragment."""

_APPLICATION, _CONTEXT_RQ, _CONTEXT_AC, _ABSTRACT, _TRANSFER, _USER = 0x10, 0x20, 0x21, 0x30, 0x40, 0x50
_MAX_LENGTH, _CLASS_UID, _ROLE, _VERSION_NAME = 0x51, 0x52, 0x54, 0x55
_MIN_MAX_LENGTH = 8  # a fragment's header has six bytes, and fragments have an even length (PS3.8 Annex E)
_PADDING = b" \x00"
_UID = re.compile(rb"[0-9.]{1,64}")
_NEVER_ACCEPTED = b"0.0"  # replaces an unreadable UID: its context is answered with a rejection
_UNREADABLE_TITLE = b"UNREADABLE".ljust(16)
_UNKNOWN_CLASS_UID = b"0.0"
_ACCEPTED, _NO_REASON = 0, 2  # result of a presentation context in an A-ASSOCIATE-AC (PS3.8 Table 9-18)
_REASONS = {1: (1, 2, 3, 7), 2: (1, 2), 3: (1, 2)}  # of an A-ASSOCIATE-RJ, by source (PS3.8 Table 9-21)
_BY_USER, _BY_PROVIDER = 0, 2  # source of an A-ABORT (PS3.8 Table 9-26)
_MAX_ABORT_REASON = 6


class MalformedPdu(ValueError):  # noqa: N818 (names the PDU)
    """An item of the PDU does not fit into the PDU or into its parent item.

    Attributes
    ----------
    item
        Item type, 0 to 255; 0: the PDU's fixed fields.
    offset
        First byte of the item, counted from the first byte of the PDU.
    """

    def __init__(self, item: int, offset: int) -> None:
        super().__init__(
            f"Item {item:02X}H at byte {offset} is longer than the item or PDU around it, or ends too early."
        )
        self.item = item
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Titles:
    """AE titles of an A-ASSOCIATE-RQ without padding; control characters are kept."""

    called: str
    calling: str


@dataclass(frozen=True, slots=True)
class NormalisedPdu:
    """A encode PDU, and the received application context name.

    Attributes
    ----------
    encoded
        The PDU; its application context name is always DICOM's.
    application_context
        Application context name of an A-ASSOCIATE-RQ or -AC as received, without padding; empty: absent.
    """

    encoded: bytes
    application_context: str = APPLICATION_CONTEXT


def read_titles(head: bytes | bytearray) -> Titles:
    """Read the AE titles of an A-ASSOCIATE-RQ.

    Parameters
    ----------
    head
        The first `HEAD_BYTES` of the PDU, or more.

    Returns
    -------
    Titles
        Decoded as ISO 8859-1, which can decode any byte, without padding: see `without_padding`.

    Raises
    ------
    MalformedPdu
        If `head` is shorter than `HEAD_BYTES`.
    """
    if len(head) < HEAD_BYTES:
        raise MalformedPdu(0, 0)
    return Titles(called=_title(head[10:26]), calling=_title(head[26:42]))


def without_padding(title: str) -> str:
    """Remove the padding of an AE title.

    Spaces and NULs at either end are padding. So is everything from a NUL on: no title may contain one (PS3.5
    Table 6.2-1), and DCMTK, like other programs in C, ends a title there, whatever its buffer held before.
    """
    return title.strip(" \0").partition("\0")[0].rstrip(" ")


def is_title(title: str) -> bool:
    """Check an AE title: 1 to 16 printable ASCII characters, no backslash (PS3.5 Table 6.2-1)."""
    return 1 <= len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title


def normalise(encoded: bytes | bytearray, transfer_syntaxes: Collection[str] | None = None) -> NormalisedPdu:
    """Rewrite one PDU for a strict decoder.

    Parameters
    ----------
    encoded
        A whole PDU of any type; only A-ASSOCIATE-RQ, -AC, -RJ and A-ABORT are encode.
    transfer_syntaxes
        UIDs that can be accepted; others are left out of the contexts of an A-ASSOCIATE-RQ. None: keep all.

    Returns
    -------
    NormalisedPdu
        Decodable by a strict decoder.

    Raises
    ------
    MalformedPdu
        If an item is longer than the item or PDU around it.
    """
    pdu = bytes(encoded)
    kind = pdu[0]
    if kind == ASSOCIATE_RQ:
        return _Request(pdu, transfer_syntaxes).encode()
    if kind == ASSOCIATE_AC:
        return _Answer(pdu).encode()
    if kind == ASSOCIATE_RJ:
        return NormalisedPdu(_rejection(pdu))
    if kind == ABORT:
        return NormalisedPdu(_abort(pdu))
    return NormalisedPdu(pdu)


class _Associate(ABC):
    """Common part of A-ASSOCIATE-RQ and A-ASSOCIATE-AC."""

    context_item: int

    def __init__(self, pdu: bytes) -> None:
        if len(pdu) < HEAD_BYTES:
            raise MalformedPdu(0, 0)
        self.pdu = pdu
        self.application_context = b""
        self.contexts: dict[int, bytes] = {}  # context ID to item, in the order of the PDU
        self.user: dict[int, bytes] = {}  # type to value of the sub-items that occur once
        self.roles: dict[bytes, bytes] = {}  # SOP class UID to value
        for kind, start, end in _items(pdu, HEAD_BYTES, len(pdu)):
            if kind == _APPLICATION:
                self.application_context = self.application_context or pdu[start:end].strip(_PADDING)
            elif kind == self.context_item:
                self._read_context(start, end)
            elif kind == _USER:
                self._read_user(start, end)

    def encode(self) -> NormalisedPdu:
        """Encode the items that were read."""
        body = b"".join(
            (self.head(), _item(_APPLICATION, APPLICATION_CONTEXT.encode()), *self.contexts.values(), self._user_item())
        )
        return NormalisedPdu(
            struct.pack(">BxI", self.pdu[0], len(body)) + body, self.application_context.decode("iso-8859-1")
        )

    @abstractmethod
    def head(self) -> bytes:
        """Encode protocol version and AE titles."""

    @abstractmethod
    def context(self, number: int, start: int, end: int) -> bytes:
        """Encode the presentation context whose sub-items lie between two offsets."""

    def _read_context(self, start: int, end: int) -> None:
        """Read one presentation context; skip an even or repeated ID, which no later PDU could refer to."""
        if end - start < 4:
            raise MalformedPdu(self.context_item, start - 4)
        number = self.pdu[start]
        if number % 2 and number not in self.contexts and len(self.contexts) < MAX_CONTEXTS:
            self.contexts[number] = self.context(number, start + 4, end)

    def _read_user(self, start: int, end: int) -> None:
        for kind, begin, stop in _items(self.pdu, start, end):
            if kind == _ROLE:
                self._read_role(self.pdu[begin:stop])
            elif kind in (_MAX_LENGTH, _CLASS_UID, _VERSION_NAME):
                self.user.setdefault(kind, self.pdu[begin:stop])

    def _read_role(self, value: bytes) -> None:
        """Read one role selection; skip an unreadable one, which leaves the default role."""
        length = int.from_bytes(value[:2], "big")
        uid, roles = value[2 : 2 + length].strip(_PADDING), value[2 + length :]
        is_readable = _UID.fullmatch(uid) and len(roles) == 2 and max(roles) <= 1
        if is_readable and len(self.roles) < MAX_CONTEXTS:
            self.roles.setdefault(uid, struct.pack(">H", len(uid)) + uid + roles)

    def _user_item(self) -> bytes:
        length = self.user.get(_MAX_LENGTH, b"")
        max_length = int.from_bytes(length, "big") if len(length) == 4 else DEFAULT_MAX_LENGTH
        if 0 < max_length < _MIN_MAX_LENGTH:
            max_length = DEFAULT_MAX_LENGTH
        class_uid = self.user.get(_CLASS_UID, b"").strip(_PADDING)
        name = re.sub(rb"[^ -~]", b"?", self.user.get(_VERSION_NAME, b"").strip(_PADDING))[:16].strip()
        sub_items = [
            _item(_MAX_LENGTH, struct.pack(">I", max_length)),
            _item(_CLASS_UID, class_uid if _UID.fullmatch(class_uid) else _UNKNOWN_CLASS_UID),
            *(_item(_ROLE, role) for role in self.roles.values()),
            *([_item(_VERSION_NAME, name)] if name else []),
        ]
        return _item(_USER, b"".join(sub_items))


class _Request(_Associate):
    context_item = _CONTEXT_RQ

    def __init__(self, pdu: bytes, transfer_syntaxes: Collection[str] | None) -> None:
        self._accepted = None if transfer_syntaxes is None else frozenset(uid.encode() for uid in transfer_syntaxes)
        super().__init__(pdu)

    def head(self) -> bytes:
        # Only bit 0 is tested for version 1 (PS3.8 Section 9.3.2).
        titles = (_encoded_title(self.pdu[10:26]), _encoded_title(self.pdu[26:42]))
        return struct.pack(">HH", self.pdu[7] & 1, 0) + b"".join(titles) + bytes(32)

    def context(self, number: int, start: int, end: int) -> bytes:
        abstract = b""
        transfer: list[bytes] = []
        for kind, begin, stop in _items(self.pdu, start, end):
            if kind == _ABSTRACT and not abstract:
                abstract = self.pdu[begin:stop].strip(_PADDING)
            elif kind == _TRANSFER and len(transfer) < MAX_TRANSFER_SYNTAXES:
                uid = self.pdu[begin:stop].strip(_PADDING)
                if _UID.fullmatch(uid) and (self._accepted is None or uid in self._accepted) and uid not in transfer:
                    transfer.append(uid)
        if not _UID.fullmatch(abstract):
            abstract, transfer = _NEVER_ACCEPTED, []
        syntaxes = (_item(_TRANSFER, uid) for uid in transfer or [_NEVER_ACCEPTED])
        return _item(_CONTEXT_RQ, struct.pack(">Bxxx", number) + _item(_ABSTRACT, abstract) + b"".join(syntaxes))


class _Answer(_Associate):
    context_item = _CONTEXT_AC

    def head(self) -> bytes:
        # The titles are reserved here: they are not to be tested (PS3.8 Section 9.3.3).
        return struct.pack(">HH", 1, 0) + b" " * 32 + bytes(32)

    def context(self, number: int, start: int, end: int) -> bytes:
        result = self.pdu[start - 2]
        uids = [
            self.pdu[begin:stop].strip(_PADDING)
            for kind, begin, stop in _items(self.pdu, start, end)
            if kind == _TRANSFER
        ]
        uid = uids[0] if uids and _UID.fullmatch(uids[0]) else b""
        if result > 4 or (result == _ACCEPTED and not uid):
            result = _NO_REASON
        # The transfer syntax of a rejected context is not significant (PS3.8 Table 9-18).
        return _item(_CONTEXT_AC, struct.pack(">BxBx", number, result) + _item(_TRANSFER, uid or _NEVER_ACCEPTED))


def _rejection(pdu: bytes) -> bytes:
    """Rewrite an A-ASSOCIATE-RJ: a value that the standard does not define becomes "no reason given"."""
    if len(pdu) < HEADER_BYTES + 4:
        raise MalformedPdu(0, 0)
    result, source, reason = pdu[7:10]
    source = source if source in _REASONS else 1
    reason = reason if reason in _REASONS[source] else 1
    return struct.pack(">BxIxBBB", ASSOCIATE_RJ, 4, 2 if result == 2 else 1, source, reason)


def _abort(pdu: bytes) -> bytes:
    """Rewrite an A-ABORT with a defined source and reason."""
    if len(pdu) < HEADER_BYTES + 4:
        raise MalformedPdu(0, 0)
    source, reason = pdu[8:10]
    source = _BY_PROVIDER if source == _BY_PROVIDER else _BY_USER
    is_defined = source == _BY_PROVIDER and reason <= _MAX_ABORT_REASON and reason != 3  # 3 is reserved
    return struct.pack(">BxIxxBB", ABORT, 4, source, reason if is_defined else 0)


def _items(pdu: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield type, first byte and end of the value of each item.

    Trailing bytes that are shorter than an item's header are padding.
    """
    while start + 4 <= end:
        kind, length = struct.unpack_from(">BxH", pdu, start)
        if start + 4 + length > end:
            raise MalformedPdu(kind, start)
        yield kind, start + 4, start + 4 + length
        start += 4 + length


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def _title(field: bytes | bytearray) -> str:
    return without_padding(field.decode("iso-8859-1"))


def _encoded_title(field: bytes) -> bytes:
    title = _title(field)
    return title.encode("ascii").ljust(16) if is_title(title) else _UNREADABLE_TITLE
