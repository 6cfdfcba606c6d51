"""A-ASSOCIATE PDUs as real peers send them, rewritten so that pynetdicom's strict decoder takes them."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ

from cxr.dicom.associate_pdu import (
    APPLICATION_CONTEXT,
    DEFAULT_MAX_LENGTH,
    MAX_CONTEXTS,
    MAX_TRANSFER_SYNTAXES,
    MalformedPdu,
    is_title,
    normalise,
    read_titles,
)

CR, CT, IMPLICIT, EXPLICIT = (
    "1.2.840.10008.5.1.4.1.1.1",
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
)
RQ, AC, RJ, ABORT = 1, 2, 3, 7


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(value)) + value


def context(
    number: int = 1, abstract: bytes = CR.encode(), syntaxes: tuple[bytes, ...] = (IMPLICIT.encode(),)
) -> bytes:
    sub_items = item(0x30, abstract) + b"".join(item(0x40, uid) for uid in syntaxes)
    return item(0x20, struct.pack(">Bxxx", number) + sub_items)


def accepted(number: int = 1, result: int = 0, syntaxes: tuple[bytes, ...] = (IMPLICIT.encode(),)) -> bytes:
    return item(0x21, struct.pack(">BxBx", number, result) + b"".join(item(0x40, uid) for uid in syntaxes))


def user(*more: bytes, length: bytes | None = struct.pack(">I", 32768), name: bytes = b"TEST_1") -> bytes:
    first = b"" if length is None else item(0x51, length)
    return item(0x50, first + item(0x52, b"1.2.3.4") + b"".join(more) + item(0x55, name))


def associate(
    kind: int,
    *items: bytes,
    version: int = 1,
    called: bytes = b"CXR".ljust(16),
    calling: bytes = b"MODALITY".ljust(16),
    application: bytes = APPLICATION_CONTEXT.encode(),
) -> bytes:
    body = struct.pack(">HH", version, 0) + called + calling + bytes(32) + item(0x10, application) + b"".join(items)
    return struct.pack(">BxI", kind, len(body)) + body


def request(*items: bytes, **fields: Any) -> bytes:
    return associate(RQ, *(items or (context(), user())), **fields)


def answer(*items: bytes, **fields: Any) -> bytes:
    return associate(AC, *(items or (accepted(), user())), **fields)


def decoded(pdu: bytes, transfer_syntaxes: set[str] | None = None) -> Any:
    """The primitive that pynetdicom makes of the rewritten PDU."""
    made = {RQ: A_ASSOCIATE_RQ, AC: A_ASSOCIATE_AC, RJ: A_ASSOCIATE_RJ, ABORT: A_ABORT_RQ}[pdu[0]]()
    made.decode(normalise(pdu, transfer_syntaxes).encoded)
    return made.to_primitive()


def contexts(primitive: Any) -> dict[int, tuple[str, list[str]]]:
    return {
        found.context_id: (str(found.abstract_syntax), [str(uid) for uid in found.transfer_syntax])
        for found in primitive.presentation_context_definition_list
    }


def sub_items(primitive: Any) -> dict[str, Any]:
    return {type(found).__name__: found for found in primitive.user_information}


@pytest.mark.parametrize(
    "pdu",
    [
        request(),
        request(called=b"CXR".ljust(16, b"\0")),
        request(called=b"CXR\0".ljust(16)),
        request(called=b"CXR\0\xffunk".ljust(16), calling=b"MODALITY\0AE\0".ljust(16)),
        request(calling=b"MODALITY".ljust(16, b"\0")),
        request(calling=b"\0 MODALITY \0".ljust(16)),
        request(version=3),
        request(version=0xFFFF),
        request(context(), user(item(0x5A, b"abcd"))),
        request(context(), user(item(0xFF, b""))),
        request(context(), user(), item(0x99, b"zz")),
        request(item(0x99, b"zz"), context(), user()),
        request(user(), context()),
        request(context(), user(), b"\0"),
        request(context(), user(), bytes(3)),
        request(context(), user(), bytes(64)),
        request(context(), user(name=b"V" * 17)),
        request(context(), user(name=b"V1\0")),
        request(context(), user(name="Ärzte".encode())),
        request(context(), user(name=b"")),
        request(context(), user(item(0x55, b"TWICE"))),
        request(context(), user(length=b"\0\1")),
        request(context(), user(item(0x53, b"\0"))),
        request(context(), user(item(0x54, b"\0\4"))),
        request(context(), user(item(0x56, b"\0\4"))),
        request(context(), user(item(0x57, b"\0"))),
        request(context(), user(item(0x58, b"\7\0\0"))),
        request(context(abstract=CR.encode() + b"\0", syntaxes=(IMPLICIT.encode() + b"\0",)), user()),
        request(context(abstract=CR.encode() + b" "), user()),
        request(application=APPLICATION_CONTEXT.encode() + b"\0"),
        request(item(0x20, context()[4:] + item(0x77, b"x")), user()),
        request(context(), item(0x50, b"")),
        request(context()),
    ],
    ids=lambda pdu: pdu[6:].hex()[:24] + "-" + str(len(pdu)),
)
def test_what_other_peers_accept_is_accepted(pdu: bytes) -> None:
    primitive = decoded(pdu)
    assert (primitive.called_ae_title.strip(), primitive.calling_ae_title.strip()) == ("CXR", "MODALITY")
    assert contexts(primitive) == {1: (CR, [IMPLICIT])}
    assert primitive.maximum_length_received in (32768, DEFAULT_MAX_LENGTH)
    assert normalise(pdu).application_context == APPLICATION_CONTEXT


@pytest.mark.parametrize(
    "pdu",
    [
        answer(),
        answer(called=bytes(16), calling=b"\xff" * 16),
        answer(version=3),
        answer(application=b"1.2.3"),
        answer(accepted(), user(item(0x5A, b"ab"))),
        answer(accepted(), user(), item(0x99, b"zz")),
        answer(accepted(), user(name=b"V" * 20)),
        answer(accepted(), user(name=b"V1\0")),
        answer(accepted(), user(name=b"\xc4rzte")),
        answer(accepted(), user(length=None)),
        answer(accepted(), user(item(0x53, b"\0"))),
        answer(accepted(), user(item(0x59, b"\0\x20"))),
        answer(accepted(syntaxes=(IMPLICIT.encode() + b"\0",)), user()),
        answer(accepted(syntaxes=(IMPLICIT.encode(), EXPLICIT.encode())), user()),
        answer(accepted(), accepted(), user()),
        answer(accepted(), accepted(number=2), user()),
        answer(accepted(), user(), b"\0\0"),
        answer(accepted()),
    ],
    ids=lambda pdu: pdu[6:].hex()[:24] + "-" + str(len(pdu)),
)
def test_what_other_peers_take_as_an_acceptance_is_one(pdu: bytes) -> None:
    primitive = decoded(pdu)
    found = primitive.presentation_context_definition_results_list
    assert [(one.context_id, one.result, [str(uid) for uid in one.transfer_syntax]) for one in found] == [
        (1, 0, [IMPLICIT])
    ]
    assert primitive.result == 0
    assert primitive.maximum_length_received in (32768, DEFAULT_MAX_LENGTH)


@pytest.mark.parametrize(
    ("said", "result"),
    [
        (accepted(result=0, syntaxes=()), 2),
        (accepted(result=0, syntaxes=(b"",)), 2),
        (accepted(result=9), 2),
        (accepted(result=3, syntaxes=()), 3),
        (accepted(result=4, syntaxes=(b"\0",)), 4),
    ],
)
def test_a_context_that_names_no_transfer_syntax_is_rejected(said: bytes, result: int) -> None:
    primitive = decoded(answer(accepted(3), said, user()))
    assert [found.result for found in primitive.presentation_context_definition_results_list] == [0, result]


@pytest.mark.parametrize(
    ("length", "taken"), [(0, 0), (8, 8), (16384, 16384), (1, DEFAULT_MAX_LENGTH), (7, DEFAULT_MAX_LENGTH)]
)
def test_a_maximum_length_that_no_fragment_fits_in_is_none(length: int, taken: int) -> None:
    assert decoded(request(context(), user(length=struct.pack(">I", length)))).maximum_length_received == taken


def test_the_first_of_two_sub_items_counts() -> None:
    pdu = request(context(), user(item(0x51, struct.pack(">I", 4096))), user(length=struct.pack(">I", 1024)))
    assert decoded(pdu).maximum_length_received == 32768


def test_a_version_name_is_cut_to_what_the_standard_allows() -> None:
    names = {name: decoded(request(context(), user(name=name))) for name in (b"V" * 20, b"V\xc41\0\0", b"\0")}
    assert sub_items(names[b"V" * 20])["ImplementationVersionNameNotification"].implementation_version_name == "V" * 16
    assert sub_items(names[b"V\xc41\0\0"])["ImplementationVersionNameNotification"].implementation_version_name == "V?1"
    assert "ImplementationVersionNameNotification" not in sub_items(names[b"\0"])


def test_roles_are_kept_and_what_is_no_role_is_left_out() -> None:
    def role(uid: str, *values: int) -> bytes:
        return item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes(values))

    pdu = request(context(), user(role(CR, 1, 1), role(CR, 0, 1), role(CT, 1), role(CT, 7, 1), role("x", 1, 1)))
    found = [one for one in decoded(pdu).user_information if type(one).__name__ == "SCP_SCU_RoleSelectionNegotiation"]
    assert [(str(one.sop_class_uid), one.scu_role, one.scp_role) for one in found] == [(CR, True, True)]


def test_a_context_that_can_not_be_read_is_still_there_to_be_rejected() -> None:
    pdu = request(
        context(1, abstract=b""),
        context(3, abstract="Ä".encode()),
        context(5, abstract=b"1." * 33),
        context(7, syntaxes=()),
        context(9, syntaxes=(b"\xff", IMPLICIT.encode())),
        item(0x20, struct.pack(">Bxxx", 11)),
        user(),
    )
    found = contexts(decoded(pdu))
    assert sorted(found) == [1, 3, 5, 7, 9, 11]
    assert found[9] == (CR, [IMPLICIT])
    assert {uid for number in (1, 3, 5, 7, 11) for uid in found[number][1]} == {"0.0"}


def test_contexts_that_nothing_can_refer_to_are_left_out() -> None:
    pdu = request(context(1), context(2), context(0), context(1, abstract=CT.encode()), user())
    assert contexts(decoded(pdu)) == {1: (CR, [IMPLICIT])}


def test_contexts_and_syntaxes_are_bounded() -> None:
    syntaxes = tuple(f"1.2.{number}".encode() for number in range(150))
    pdu = request(*(context(number % 256, syntaxes=syntaxes) for number in range(400)), user())
    found = contexts(decoded(pdu))
    assert len(found) == MAX_CONTEXTS
    assert {len(uids) for _, uids in found.values()} == {MAX_TRANSFER_SYNTAXES}


def test_syntaxes_that_are_not_accepted_anyway_are_left_out() -> None:
    syntaxes = (*(f"1.2.{number}".encode() for number in range(150)), EXPLICIT.encode(), IMPLICIT.encode())
    found = contexts(decoded(request(context(syntaxes=syntaxes), user()), {IMPLICIT, EXPLICIT}))
    assert found == {1: (CR, [EXPLICIT, IMPLICIT])}


@pytest.mark.parametrize("version", [0, 2, 0xFFFE])
def test_another_protocol_version_stays_another(version: int) -> None:
    assert struct.unpack_from(">H", normalise(request(version=version)).encoded, 6) == (0,)


@pytest.mark.parametrize("said", [b"1.2.3", b"", b"\xff"])
def test_another_application_context_is_told(said: bytes) -> None:
    assert normalise(request(application=said)).application_context == said.decode("iso-8859-1")


@pytest.mark.parametrize("title", [b"PACS\t", b"\xc4", b"", b"A\\B"])
def test_a_title_that_is_none_does_not_stop_the_decoder(title: bytes) -> None:
    pdu = request(called=title.ljust(16), calling=title.ljust(16))
    decoded(pdu)
    assert read_titles(pdu).called == title.decode("iso-8859-1")


@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"PACS            ", "PACS"),
        (b"  PACS\0 \0       ", "PACS"),
        (b"PACS\t           ", "PACS\t"),
        (b"\n  PACS          ", "\n  PACS"),
        (b"PA\0CS           ", "PA"),
        (bytes(16), ""),
    ],
)
def test_only_spaces_and_nuls_are_padding(field: bytes, title: str) -> None:
    assert read_titles(request(calling=field.ljust(16)[:16])).calling == title


@pytest.mark.parametrize(
    ("title", "is_one"),
    [("A", True), ("A" * 16, True), ("A B", True), ("", False), ("A" * 17, False), ("A\\", False), ("Ä", False)],
)
def test_titles_are_those_of_the_standard(title: str, is_one: bool) -> None:
    assert is_title(title) is is_one


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ((1, 1, 3), (1, 1, 3)),
        ((2, 3, 2), (2, 3, 2)),
        ((1, 1, 9), (1, 1, 1)),
        ((1, 2, 7), (1, 2, 1)),
        ((2, 3, 0), (2, 3, 1)),
        ((0, 0, 0), (1, 1, 1)),
        ((9, 9, 9), (1, 1, 1)),
    ],
)
def test_a_rejection_that_the_standard_does_not_have_is_one_without_a_reason(
    said: tuple[int, ...], taken: tuple[int, ...]
) -> None:
    primitive = decoded(struct.pack(">BxIxBBB", RJ, 4, *said))
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == taken


@pytest.mark.parametrize("said", [(0, 0), (0, 9), (1, 0), (2, 0), (2, 3), (2, 6), (2, 7), (255, 255)])
def test_every_abort_is_an_abort(said: tuple[int, int]) -> None:
    assert type(decoded(struct.pack(">BxIxxBB", ABORT, 4, *said))).__name__ == (
        "A_P_ABORT" if said[0] == 2 else "A_ABORT"
    )


@pytest.mark.parametrize(
    ("pdu", "item_type", "offset"),
    [
        (request()[:73], 0, 0),
        (request(struct.pack(">BxH", 0x20, 100) + bytes(8)), 0x20, 99),
        (request(item(0x20, b"\1\0")), 0x20, 99),
        (request(context(), item(0x50, struct.pack(">BxH", 0x55, 90) + b"V")), 0x55, 161),
        (struct.pack(">BxI", RJ, 2) + bytes(2), 0, 0),
        (struct.pack(">BxI", ABORT, 0), 0, 0),
    ],
)
def test_lengths_that_do_not_fit_are_named(pdu: bytes, item_type: int, offset: int) -> None:
    with pytest.raises(MalformedPdu, match=f"{item_type:02X}H at byte {offset}") as raised:
        normalise(pdu)
    assert (raised.value.item, raised.value.offset) == (item_type, offset)


def test_other_pdus_are_left_as_they_are() -> None:
    release = struct.pack(">BxI4x", 5, 4)
    assert normalise(release).encoded == release


@given(st.sampled_from([request(), answer()]), st.data())
def test_whatever_comes_the_strict_decoder_takes_the_result(pdu: bytes, data: st.DataObject) -> None:
    changed = bytearray(pdu)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(6, len(pdu) - 1))] = data.draw(st.integers(0, 255))
    del changed[data.draw(st.integers(len(pdu) - 20, len(pdu))) :]
    try:
        decoded(bytes(changed))
    except MalformedPdu as error:
        assert error.offset < len(pdu)
