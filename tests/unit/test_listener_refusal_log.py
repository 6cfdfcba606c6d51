"""Lines about refused senders: who, at most once a minute each, and never a flood."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from config.logs import configure
from config.settings import LogSettings
from cxr.dicom.associate_pdu import MalformedPdu
from listener.admission import Requestor
from listener.refusal_log import RefusalLog

PACS = Requestor(address="192.0.2.7", calling_ae_title="PACS", called_ae_title="CXR")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    target = io.StringIO()
    configure(LogSettings(format="json"), target)
    yield target
    configure(LogSettings())


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_names_address_and_titles(stream: io.StringIO) -> None:
    RefusalLog(Clock()).log_refusal(PACS, "calling_ae_title")
    (line,) = lines(stream)
    wanted = {"event": "association_refused", "reason": "calling_ae_title", "address": "192.0.2.7"}
    assert line.items() >= (wanted | {"calling_ae_title": "PACS", "called_ae_title": "CXR"}).items()


def test_control_characters_of_a_title_are_escaped(stream: io.StringIO) -> None:
    odd = Requestor(address="fe80::1%eth0", calling_ae_title="P\x1b[2J\x9b\t\\", called_ae_title="GE WORK 1")
    RefusalLog(Clock()).log_refusal(odd, "calling_ae_title")
    (line,) = lines(stream)
    assert (line["address"], line["calling_ae_title"]) == ("fe80::1", r"P\x1b[2J\x9b\x09\x5c")
    assert line["called_ae_title"] == "GE WORK 1"


def test_what_can_not_be_read_is_named_by_item_and_offset(stream: io.StringIO) -> None:
    log = RefusalLog(Clock())
    log.log_bad_pdu(PACS, MalformedPdu(0x5A, 99))
    log.log_bad_pdu(PACS, KeyError("x"))
    first, second = lines(stream)
    assert (first["event"], first["item"], first["offset"]) == ("bad_pdu", "5AH", 99)
    assert (second["kind"], second["item"], second["offset"]) == ("KeyError", None, None)


def test_each_sender_has_one_line_a_minute(stream: io.StringIO) -> None:
    clock = Clock()
    log = RefusalLog(clock)
    other = Requestor(address="192.0.2.8", calling_ae_title="PACS", called_ae_title="CXR")
    for clock.now in (0.0, 1.0, 59.0, 60.0, 61.0):
        log.log_refusal(PACS, "calling_ae_title")
        log.log_refusal(other, "calling_ae_title")
        log.log_refusal(PACS, "too_many")
    assert len(lines(stream)) == 6, "three in each minute"


def test_a_sender_that_invents_titles_fills_neither_log_nor_memory(stream: io.StringIO) -> None:
    clock = Clock()
    log = RefusalLog(clock)
    for number in range(5000):
        log.log_refusal(Requestor(address="192.0.2.7", calling_ae_title=f"T{number}"), "calling_ae_title")
    assert len(lines(stream)) == 100
    clock.now = 60.0
    log.log_refusal(PACS, "calling_ae_title")
    assert [line["event"] for line in lines(stream)[100:]] == ["refusals_not_logged", "association_refused"]
    assert lines(stream)[100]["count"] == 4900
