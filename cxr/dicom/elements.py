"""Read single elements of a dataset from their bytes as received.

pydicom converts an element on access, in place, with warnings that quote the value, and raises where the value is
malformed. The functions here convert nothing in the dataset and raise nothing: they return None for a malformed
value. The report's builder can then copy every element as received.

References
----------
DICOM PS3.5 Sections 6.1 (character sets) and 6.2 (value representations)
"""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from io import BytesIO
from itertools import islice
from typing import BinaryIO, Final, cast

from pydicom.charset import python_encoding
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence_item
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from cxr.dicom.bounded_streams import MeteredStream
from cxr.dicom.reader import READING_FAULTS, is_operating_system_error
from cxr.domain import Code

_ESCAPE_SEQUENCE = re.compile(r"\x1b[\x20-\x2f]*[\x30-\x7e]")
_UID = re.compile(r"\d+(\.\d+)*", re.ASCII)
_PADDING = " \0"
# An item of 8 bytes becomes an object of 700 bytes in pydicom: the number of elements and items is bounded. Bytes are
# not, because one LUT has 128 KiB in a single element.
_MAX_READS: Final = 8192
_MAX_ITEMS: Final = 1024


def find(dataset: Dataset, keyword: str) -> RawDataElement | DataElement | None:
    """Find an element without converting it; None if it is absent."""
    tag = _tag(keyword)
    try:
        element = None if tag is None else dataset.get_item(tag)
    except (*READING_FAULTS, OSError):
        return None  # a deferred element whose declared length exceeds the file
    return element if isinstance(element, RawDataElement | DataElement) else None


@cache
def _tag(keyword: str) -> BaseTag | None:
    """Return the tag of a keyword of this project; pydicom would make it anew for each element."""
    tag = tag_for_keyword(keyword)
    return None if tag is None else BaseTag(tag)


def raw_bytes(dataset: Dataset, keyword: str) -> bytes | None:
    """Read an element's value as bytes, in the dataset's own character set.

    Returns
    -------
    bytes or None
        Without trailing padding; empty for an empty element; None if absent.
    """
    element = find(dataset, keyword)
    if element is None:
        return None
    if isinstance(element.value, bytes):  # as received: no character set is needed
        return element.value.rstrip(b" \0")
    return element_bytes(element, codecs(dataset))


def element_bytes(element: RawDataElement | DataElement, encodings: Sequence[str]) -> bytes:
    """Return an element's value as bytes without trailing padding.

    Parameters
    ----------
    element
        As received, or set by a program; not a sequence.
    encodings
        Python codecs of the dataset's character sets, for values set by a program.
    """
    value = element.value
    if not isinstance(value, bytes):
        value = b"\\".join(_encoded(item, encodings) for item in _items(value))
    return value.rstrip(b" \0")


def _items(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]


def _encoded(value: object, encodings: Sequence[str]) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, PersonName) and isinstance(value.original_string, bytes):
        return value.original_string
    text = str(value)
    for encoding in encodings:
        try:
            return text.encode(encoding)
        except (UnicodeError, LookupError):
            continue
    return text.encode("utf-8", "surrogatepass")


def codecs(dataset: Dataset) -> tuple[str, ...]:
    """Return Python's codecs for a dataset's Specific Character Set, without unknown terms.

    Returns
    -------
    tuple[str, ...]
        At least one; Latin-1 by default, because it decodes any byte.
    """
    element = find(dataset, "SpecificCharacterSet")
    declared = "" if element is None else element_bytes(element, ("ascii",)).decode("latin-1")
    names = (python_encoding.get(term.strip(_PADDING)) for term in declared.split("\\"))
    return tuple(name for name in names if name is not None) or ("latin-1",)


def text(dataset: Dataset, keyword: str) -> str | None:
    """Read a text; undecodable bytes become U+FFFD. None if it is absent, empty or only padding."""
    value = raw_bytes(dataset, keyword)
    if not value:
        return None
    if value.isascii() and b"\x1b" not in value:  # the same in every character set of DICOM
        return value.decode("ascii").strip(_PADDING) or None
    return _decoded(value, codecs(dataset)).strip(_PADDING) or None


def _decoded(value: bytes, encodings: Sequence[str]) -> str:
    # With code extensions (PS3.5 Section 6.1.2.5) the first character set applies before any escape sequence.
    candidates = tuple(reversed(encodings)) if b"\x1b" in value else tuple(encodings[:1])
    for encoding in candidates:
        try:
            return _ESCAPE_SEQUENCE.sub("", value.decode(encoding))
        except (UnicodeError, LookupError):
            continue
    return _ESCAPE_SEQUENCE.sub("", value.decode("ascii", "replace"))


def code_strings(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Read the values of a code string, upper-cased; empty if none has content."""
    value = text(dataset, keyword) or ""
    values = tuple(part.strip(_PADDING).upper() for part in value.split("\\"))
    return values if any(values) else ()


def code_string(dataset: Dataset, keyword: str) -> str | None:
    """Read a code string of value multiplicity 1, upper-cased; several values stay joined by backslashes."""
    return "\\".join(code_strings(dataset, keyword)) or None


def uid(dataset: Dataset, keyword: str) -> str | None:
    """Read a UID; None if it is absent or not a UID.

    Components with leading zeros, which PS3.5 Section 9.1 forbids, occur in practice and are accepted.
    """
    value = text(dataset, keyword) or ""
    return value if len(value) <= 64 and _UID.fullmatch(value) else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """Read an integer, binary (US, UL) or as a string (IS); None if it is absent or not an integer."""
    element = find(dataset, keyword)
    value = None if element is None else element.value
    if isinstance(value, int):
        return int(value)
    is_string = keyword == "NumberOfFrames"  # IS, also where the VR is unknown
    if isinstance(element, RawDataElement) and isinstance(value, bytes) and element.VR != "IS" and not is_string:
        order = "<" if element.is_little_endian else ">"
        code = {2: "H", 4: "L"}.get(len(value))
        return struct.unpack(order + code, value)[0] if code else None
    string = (text(dataset, keyword) or "").split("\\")[0].strip()
    return int(string) if re.fullmatch(r"[+-]?\d{1,12}", string, re.ASCII) else None


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Read the values of a decimal or integer string; empty if it is absent or a value is not a finite number."""
    try:
        values = tuple(float(part) for part in (text(dataset, keyword) or "").split("\\"))
    except ValueError:
        return ()
    return values if all(map(math.isfinite, values)) else ()


def items(dataset: Dataset, keyword: str, at_most: int = _MAX_ITEMS) -> list[Dataset]:
    """Read the first items of a sequence, of any length in bytes.

    The dataset's own element stays unconverted.

    Parameters
    ----------
    dataset, keyword
        The dataset, and the keyword of the sequence.
    at_most
        Most items to read; later items are ignored.

    Returns
    -------
    list[Dataset]
        Empty if the sequence is absent or empty, if an item is malformed, or if the items have more than some
        thousands of elements.
    """
    element = find(dataset, keyword)
    if element is None:
        return []
    try:
        if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
            return list(islice(_parsed(element, dataset), at_most))
        value = element.value
        datasets = [item for item in value if isinstance(item, Dataset)] if isinstance(value, Sequence) else []
        return datasets[:at_most]
    except (*READING_FAULTS, OSError) as error:
        if is_operating_system_error(error):
            raise
        return []


def _parsed(element: RawDataElement, dataset: Dataset) -> Iterator[Dataset]:
    """Parse the items of a raw sequence one by one."""
    value = element.value or b""
    # A value of VR UN is encoded in Implicit VR Little Endian (PS3.5 Section 6.2.2, note 2).
    is_unknown = element.VR == "UN"
    is_implicit, is_little = (True, True) if is_unknown else (element.is_implicit_VR, element.is_little_endian)
    encodings = dataset.original_character_set or "iso8859"
    stream = cast("BinaryIO", MeteredStream(BytesIO(value), sys.maxsize - 1, _MAX_READS))
    while stream.tell() < len(value):
        item = read_sequence_item(stream, is_implicit, is_little, encodings)
        if item is None:
            return
        yield item


def coded(dataset: Dataset, keyword: str) -> tuple[Code, ...]:
    """Read a code sequence (PS3.3 Section 8), without items that have no code value."""
    codes = []
    for item in items(dataset, keyword):
        value = next(filter(None, (text(item, key) for key in ("CodeValue", "LongCodeValue", "URNCodeValue"))), None)
        if value is not None:
            codes.append(
                Code(
                    value=value,
                    scheme_designator=(text(item, "CodingSchemeDesignator") or "").upper(),
                    meaning=text(item, "CodeMeaning") or "",
                )
            )
    return tuple(codes)
