"""Send files to a Storage SCP over as few associations as possible, with one outcome per file.

References
----------
DICOM PS3.4 Annex B (Storage Service Class), PS3.8 Section 9.3.2 (at most 128 presentation contexts)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config

from cxr.dicom import READING_FAULTS
from cxr.errors import CxrError, DeliveryError, PeerUnreachable, PresentationContextRejected, UnparsableObject
from inference.delivery.association import Address, abandon, close, context, open_association, status_of
from inference.delivery.statuses import is_stored, is_warning, store_fault

if TYPE_CHECKING:
    from pynetdicom.association import Association

    from app.send.files import Sendable

MAX_KINDS = 64  # of SOP class and transfer syntax in one association, with two contexts each
MAX_BREAKS = 2  # consecutive broken associations, after which the remaining files are not tried

_CONVERTIBLE = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

Kind = tuple[str, str]  # SOP class, transfer syntax


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of one file."""

    path: Path
    status: int | None = None  # DIMSE status of the response, if there was one
    code: str | None = None  # error code; None: stored
    refused: tuple[str, str] | None = None  # names of the SOP class and transfer syntax that the peer does not accept

    @property
    def is_warned(self) -> bool:
        """Whether the peer stored it with a warning status."""
        return self.code is None and self.status is not None and is_warning(self.status)


def store_files(address: Address, files: Sequence[Sendable]) -> Iterator[Outcome]:
    """Send files one after the other.

    Parameters
    ----------
    address
        Address of the Storage SCP.
    files
        Files to send; up to `MAX_KINDS` kinds share an association.

    Yields
    ------
    Outcome
        One per file, in their order.
    """
    with _send_files_unchanged():
        start = 0
        while start < len(files):
            end = _end_of_group(files, start)
            yield from _store_group(address, files[start:end])
            start = end


def _end_of_group(files: Sequence[Sendable], start: int) -> int:
    kinds: set[Kind] = set()
    for number in range(start, len(files)):
        kinds.add(_kind(files[number]))
        if len(kinds) > MAX_KINDS:
            return number
    return len(files)


def _store_group(address: Address, files: Sequence[Sendable]) -> Iterator[Outcome]:
    group = _Group(address, {_kind(file) for file in files})
    try:
        for file in files:
            yield group.store(file)
    finally:
        group.close()


class _Group:
    """Files whose contexts fit one association, which is opened again after it broke."""

    def __init__(self, address: Address, kinds: set[Kind]) -> None:
        self._address = address
        self._contexts = [context(sop_class, syntaxes) for sop_class, syntaxes in _proposals(sorted(kinds))]
        self._association: Association | None = None
        self._breaks = 0

    def store(self, file: Sendable) -> Outcome:
        """Send one file and return its outcome; raise nothing for a failure."""
        if self._breaks >= MAX_BREAKS:
            return Outcome(path=file.path, code=PeerUnreachable.code)
        try:
            if self._association is None:
                self._association = open_association(self._address, self._contexts)
            outcome = Outcome(path=file.path, status=_store(self._association, file))
        except (DeliveryError, UnparsableObject) as error:
            is_refused = isinstance(error, PresentationContextRejected)
            outcome = Outcome(
                path=file.path,
                status=getattr(error, "status", None),
                code=error.code,
                refused=(UID(file.sop_class_uid).name, UID(file.transfer_syntax_uid).name) if is_refused else None,
            )
            self._note_break(error)
        else:
            self._breaks = 0
        return outcome

    def close(self) -> None:
        """Release the association, if it is open."""
        if self._association is not None:
            close(self._association)

    def _note_break(self, error: CxrError) -> None:
        """Abandon an association without an answer, and count it."""
        if isinstance(error, DeliveryError) and error.retryable and error.status is None:
            self._breaks += 1
            if self._association is not None:
                abandon(self._association)
                self._association = None


def _proposals(kinds: Sequence[Kind]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the contexts of each kind: its own syntax and, if uncompressed, the syntaxes to convert it to."""
    for sop_class, syntax in kinds:
        yield sop_class, (syntax,)
        if not UID(syntax).is_transfer_syntax or not UID(syntax).is_compressed:
            yield sop_class, _CONVERTIBLE


def _store(association: Association, file: Sendable) -> int:
    """Send one file and return the DIMSE status of success or warning."""
    accepted = {
        (str(accepted.abstract_syntax), str(accepted.transfer_syntax[0])) for accepted in association.accepted_contexts
    }
    is_accepted_unchanged = _kind(file) in accepted
    content = file.path if is_accepted_unchanged and file.is_sendable_unchanged else _read(file)
    try:
        status = status_of(association.send_c_store(content))
    except ValueError as error:
        if is_accepted_unchanged:
            raise UnparsableObject("The file can't be encoded for sending.") from error
        sop_class, syntax = UID(file.sop_class_uid).name, UID(file.transfer_syntax_uid).name
        raise PresentationContextRejected(
            f"The peer does not accept {sop_class} in {syntax}, nor in a transfer syntax that it can be converted to."
        ) from error
    except (AttributeError, OSError, *READING_FAULTS) as error:
        if isinstance(error, RuntimeError):  # raised by pynetdicom when the association has just ended
            raise PeerUnreachable("The peer ended the association.") from error
        raise UnparsableObject("The file can't be read to its end.") from error
    if not is_stored(status):
        raise store_fault(status)
    return status


def _read(file: Sendable) -> Dataset:
    """Read a whole file, to send it in another transfer syntax or with the UIDs of its data set."""
    try:
        with warnings.catch_warnings():
            # pydicom prints values in its warnings, which may be a patient's.
            warnings.simplefilter("ignore")
            dataset = dcmread(file.path, force=True)
    except (OSError, *READING_FAULTS) as error:
        raise UnparsableObject("The file can't be read to its end.") from error
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(file.transfer_syntax_uid)
    dataset.file_meta = meta
    return dataset


def _kind(file: Sendable) -> Kind:
    return file.sop_class_uid, file.transfer_syntax_uid


@contextmanager
def _send_files_unchanged() -> Iterator[None]:
    """Make pynetdicom send a file without decoding it; its switch is global to the process."""
    before = _config.STORE_SEND_CHUNKED_DATASET
    _config.STORE_SEND_CHUNKED_DATASET = True
    try:
        yield
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before
