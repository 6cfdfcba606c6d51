"""The tables of the listener: statuses, contexts, versions, the header of a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)
from pynetdicom import build_context
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from config.pynetdicom_overrides import MADE_FOR, check_version
from config.settings import ListenerSettings, TlsSettings
from cxr import errors, product
from cxr.dicom.transfer_syntaxes import DECODABLE_SYNTAXES
from cxr.errors import IntakeError, SettingsError
from cxr.view import REASONS
from listener import statuses
from listener.commitment_scp import SOP_CLASS as COMMITMENT
from listener.contexts import NOT_ACCEPTED_REASON, TRANSFER_SYNTAXES, Contexts, storage_classes
from listener.reception import file_header
from listener.statuses import status_of
from listener.tls import server_context

CT = "1.2.840.10008.5.1.4.1.1.2"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
PRIVATE = "1.3.46.670589.2.5.1.1"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SpoolFull(), 0xA700),
        (errors.ObjectTooLarge(), 0xA700),
        (errors.IdentityMismatch(), 0xA900),
        (errors.UnparsableObject(), 0xC210),
        (errors.StorageError(), 0xC211),
        (errors.DatabaseUnavailable(), 0xA700),
        (ValueError(), 0xC211),
        (OSError(), 0xC211),
    ],
)
def test_each_error_has_its_status(error: Exception, code: int) -> None:
    assert status_of(error).code == code


def test_every_kind_of_intake_error_is_in_the_table() -> None:
    assert set(IntakeError.__subclasses__()) <= set(statuses.BY_ERROR)


def test_statuses_are_those_of_the_storage_service() -> None:
    """PS3.4 Table B.2-1."""
    assert {status.code for status in statuses.ALL} <= set(STORAGE_SERVICE_CLASS_STATUS)
    assert {status.code for status in statuses.BY_ERROR.values()} <= {status.code for status in statuses.ALL}
    assert len({status.code for status in statuses.ALL}) == len(statuses.ALL)


def test_every_syntax_that_can_be_decoded_is_accepted_and_no_other() -> None:
    (radiographs,) = [
        context
        for context in Contexts(ListenerSettings()).supported_for([])
        if context.abstract_syntax == ComputedRadiographyImageStorage
    ]
    assert sorted(radiographs.transfer_syntax or []) == sorted(DECODABLE_SYNTAXES)


def test_uncompressed_is_preferred_to_lossless_and_lossless_to_lossy() -> None:
    lossy = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K}
    ranks = [1 + (uid in lossy) if uid.is_encapsulated else 0 for uid in TRANSFER_SYNTAXES[:-1]]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}
    assert TRANSFER_SYNTAXES[-1] == ExplicitVRBigEndian  # retired (PS3.5 Section A.3)


def test_few_classes_by_default() -> None:
    supported = Contexts(ListenerSettings()).supported_for([build_context(CT)])
    assert [str(context.abstract_syntax) for context in supported] == [
        "1.2.840.10008.1.1",
        *storage_classes(ListenerSettings()),
        COMMITMENT,
    ]
    assert len(supported) == 5


def test_every_other_storage_class_where_the_setting_says_so() -> None:
    contexts = Contexts(ListenerSettings(accept_all_storage=True))
    proposed = [build_context(uid) for uid in (CT, PRIVATE, FIND, "1.2.840.10008.1.1")]
    added = {str(context.abstract_syntax) for context in contexts.supported_for(proposed)[5:]}
    assert added == {CT, PRIVATE}
    assert not contexts.is_accepted(CT)
    assert NOT_ACCEPTED_REASON in REASONS


def test_the_overrides_are_of_one_version() -> None:
    check_version()
    with pytest.raises(RuntimeError, match=MADE_FOR):
        check_version("3.0.5")


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")  # what archives are full of
@pytest.mark.parametrize(
    ("sop_class", "instance"), [("1.2.840.10008.5.1.4.1.1.1", "1.2.3.4"), ("1.02.3", "1.2.003"), ("", "")]
)
def test_the_header_of_a_file_is_well_formed(sop_class: str, instance: str) -> None:
    meta = dcmread(BytesIO(file_header(sop_class, instance, "1.2.840.10008.1.2.4.70"))).file_meta
    values = {element.keyword: element for element in meta}
    assert meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.70"
    assert meta.ImplementationClassUID == product.IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == product.IMPLEMENTATION_VERSION_NAME
    assert ("MediaStorageSOPInstanceUID" in values) is bool(instance)
    assert ("MediaStorageSOPClassUID" in values) is bool(sop_class)


def test_tls_files_that_are_none_are_said_so(tmp_path: Path) -> None:
    settings = TlsSettings(port=1, certificate=tmp_path / "none.pem", key=tmp_path / "none.key")
    with pytest.raises(SettingsError, match=r"listener\.tls") as raised:
        server_context(settings)
    assert str(tmp_path) not in str(raised.value)
