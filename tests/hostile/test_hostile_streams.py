"""Peers that break the upper layer protocol: each gets a status, a reject or an abort, and none does harm."""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

CR = "1.2.840.10008.5.1.4.1.1.1"
ECHO = "1.2.840.10008.1.1"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
AC, RJ, DATA, RELEASED, ABORT = 2, 3, 4, 6, 7
RELEASE_RQ = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"

PEERS_AT_ONCE = 40
PATIENCE_S = 60.0


@dataclass
class Talk:
    """What a peer does: bytes are sent, numbers are pauses in seconds, words are acts."""

    kind: str
    steps: list[bytes | float | str]
    hangs_up: bool = False  # by itself: nobody is left to be told
    is_silent: bool = False  # says nothing that asks for an answer
    seen: list[int] = field(default_factory=list)  # kinds of the PDUs that came back
    ended: bool = False  # by the listener


class Streams:
    """Draws conversations."""

    def __init__(self, wire: Any) -> None:
        self.wire = wire
        self.kinds: list[Callable[[random.Random], Talk]] = [
            self.mutated_request,
            self.odd_request,
            self.odd_titles,
            self.many_contexts,
            self.odd_user_items,
            self.no_dicom,
            self.unknown_pdu,
            self.cut_pdu,
            self.mutated_data,
            self.odd_fragments,
            self.odd_commands,
            self.many_commands_in_one_pdu,
            self.endless_empty_fragments,
            self.endless_command,
            self.wrong_state,
            self.stops_within_a_message,
            self.trickle,
            self.vanishes,
            self.half_open,
            self.says_nothing,
        ]

    def draw(self, number: int) -> Talk:
        chance = self.wire.numbered(number)
        return self.kinds[number % len(self.kinds)](chance)

    def good_request(self) -> bytes:
        return self.wire.associate_rq([(1, ECHO, [IMPLICIT]), (3, CR, [EXPLICIT])])

    def mutated_request(self, chance: random.Random) -> Talk:
        request = bytearray(self.good_request())
        for _ in range(chance.randint(1, 12)):
            request[chance.randrange(6, len(request))] = chance.randrange(256)
        return Talk("mutated_request", [bytes(request), 0.05, RELEASE_RQ])

    def odd_request(self, chance: random.Random) -> Talk:
        request = bytearray(self.good_request())
        place = chance.choice([chance.randrange(74, len(request) - 4), 76])
        what = chance.choice(["cut", "lie", "insert", "repeat", "empty"])
        if what == "cut":
            del request[place:]
        elif what == "lie":
            request[place : place + 2] = struct.pack(">H", chance.choice([0, 1, 0x7FFF, 0xFFFF]))
        elif what == "insert":
            request[place:place] = chance.randbytes(chance.randint(1, 400))
        elif what == "repeat":
            request += request[74:] * chance.randint(1, 200)
        else:
            del request[6:]
        request[2:6] = struct.pack(">L", len(request) - 6)
        return Talk("odd_request", [bytes(request), 0.05, RELEASE_RQ])

    def odd_titles(self, chance: random.Random) -> Talk:
        odd = [b"", b"\0" * 16, b"\xff" * 16, b"../../etc", b"CXR\\CXR", chance.randbytes(16), b"\x1b[31mX", b"CXR"]
        request = self.wire.associate_rq(
            [(1, ECHO, [IMPLICIT])],
            called=chance.choice(odd),
            calling=chance.choice(odd),
            version=chance.choice([0, 1, 1, 2, 0xFFFF]),
        )
        return Talk("odd_titles", [request, 0.05, RELEASE_RQ])

    def many_contexts(self, chance: random.Random) -> Talk:
        uids = [CR, ECHO, "1.2.3", "", "9" * 64, "9" * 200, "1..2", "../../x", "é"]
        contexts = [
            (
                chance.randrange(256),
                chance.choice(uids),
                [chance.choice([EXPLICIT, IMPLICIT, "1.2", "", "x" * 70]) for _ in range(chance.randint(0, 30))],
            )
            for _ in range(chance.choice([0, 1, 128, 129, 300]))
        ]
        return Talk("many_contexts", [self.wire.associate_rq(contexts), 0.05, RELEASE_RQ])

    def odd_user_items(self, chance: random.Random) -> Talk:
        def user_item() -> bytes:
            kind = chance.choice([0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, chance.randrange(256)])
            uid = CR.encode()
            named = struct.pack(">H", len(uid)) + uid
            body = chance.choice([b"", chance.randbytes(chance.randint(1, 40)), named + b"\x01\x01", named, b"\0" * 8])
            return self.wire.item(kind, body)

        user = b"".join(user_item() for _ in range(chance.randint(1, 8)))
        request = self.wire.associate_rq([(1, ECHO, [IMPLICIT]), (3, CR, [EXPLICIT])], user=user)
        return Talk("odd_user_items", [request, 0.05, RELEASE_RQ])

    def no_dicom(self, chance: random.Random) -> Talk:
        first = [
            b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
            chance.randbytes(chance.randint(6, 3000)),
        ]
        return Talk("no_dicom", [chance.choice(first)])

    def unknown_pdu(self, chance: random.Random) -> Talk:
        kind, length = chance.choice([0, 8, 0x99, 1, 4]), chance.choice([0, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20 | 1])
        opening = [self.good_request(), 0.05] if chance.random() < 0.5 else []
        return Talk("unknown_pdu", [*opening, struct.pack(">BBL", kind, 0, length) + chance.randbytes(64)])

    def cut_pdu(self, chance: random.Random) -> Talk:
        whole = self.good_request() + b"".join(self._store(chance))
        at = chance.randrange(1, len(whole))
        return Talk("cut_pdu", [whole[:at]])

    def mutated_data(self, chance: random.Random) -> Talk:
        data = bytearray(b"".join(self._store(chance)))
        for _ in range(chance.randint(1, 30)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return Talk("mutated_data", [self.good_request(), bytes(data), RELEASE_RQ])

    def odd_fragments(self, chance: random.Random) -> Talk:
        def one() -> bytes:
            length = chance.choice([0, 1, 2, 3, 40, 0xFFFF, 0xFFFFFFFF])
            context = chance.choice([0, 1, 2, 3, 5, 255])
            return struct.pack(">LBB", length, context, chance.randrange(256)) + chance.randbytes(chance.randint(0, 60))

        pdus = [self.wire.pdu(4, b"".join(one() for _ in range(chance.randint(0, 4)))) for _ in range(3)]
        return Talk("odd_fragments", [self.good_request(), *pdus, RELEASE_RQ])

    def odd_commands(self, chance: random.Random) -> Talk:
        fields = [0, 1, 0x0020, 0x0030, 0x0FFF, 0x8001, 0x8030, 0x0110, 0x0150, chance.randrange(65536)]
        uids = [b"", CR.encode(), ECHO.encode(), b"../../../x", b"\0" * 64, b"1" * 65, chance.randbytes(30)]
        steps: list[bytes | float | str] = [self.good_request()]
        for number in range(chance.randint(1, 4)):
            has_data = chance.random() < 0.6
            asked = self.wire.command(
                chance.choice(fields),
                has_data=has_data,
                sop_class=chance.choice(uids),
                instance=chance.choice(uids),
                message=number,
            )
            if chance.random() < 0.3:
                asked += self.wire.element(0, 0x0100, chance.randbytes(chance.choice([0, 1, 4])))
            context = chance.choice([1, 3, 3, 7])
            steps.append(self.wire.pdu(4, self.wire.fragment(context, asked, is_command=True)))
            if has_data:
                data = chance.randbytes(chance.randint(0, 500))
                steps.append(self.wire.pdu(4, self.wire.fragment(context, data, is_command=False)))
        return Talk("odd_commands", [*steps, RELEASE_RQ])

    def many_commands_in_one_pdu(self, chance: random.Random) -> Talk:
        asked = self.wire.command(
            chance.choice([1, 1, 0x30]), has_data=False, sop_class=CR.encode(), instance=b"1.2.3.4"
        )
        one = self.wire.fragment(3, asked, is_command=True)
        flood = self.wire.pdu(4, one * chance.choice([2, 50, 131000 // len(one)]))
        return Talk("many_commands_in_one_pdu", [self.good_request(), flood, RELEASE_RQ])

    def endless_empty_fragments(self, chance: random.Random) -> Talk:
        asked = self.wire.command(1, has_data=True, sop_class=CR.encode(), instance=b"1.2.3.4")
        empty = self.wire.pdu(4, self.wire.fragment(3, b"", is_command=False, is_last=False))
        packed = self.wire.pdu(4, self.wire.fragment(3, b"", is_command=False, is_last=False) * 20_000)
        first = self.wire.pdu(4, self.wire.fragment(3, asked, is_command=True))
        flow = chance.choice([[packed] * 5, [empty * 2000], [empty, 0.4] * 12])
        return Talk("endless_empty_fragments", [self.good_request(), first, *flow])

    def endless_command(self, chance: random.Random) -> Talk:
        piece = self.wire.pdu(
            4, self.wire.fragment(3, chance.randbytes(chance.choice([1, 4000])), is_command=True, is_last=False)
        )
        return Talk("endless_command", [self.good_request(), piece * chance.choice([10, 3000])])

    def wrong_state(self, chance: random.Random) -> Talk:
        others = [
            self.good_request(),
            self.wire.pdu(2, bytes(68)),
            self.wire.pdu(3, b"\0\x01\x01\x01"),
            self.wire.pdu(6, bytes(4)),
            self.wire.pdu(5, b""),
            self.wire.pdu(7, b""),
            b"".join(self._store(chance)),
            RELEASE_RQ + RELEASE_RQ,
        ]
        opening = [self.good_request(), 0.05] if chance.random() < 0.7 else []
        chosen = chance.sample(others, chance.randint(1, 3))
        # Nothing is to be said to an A-ABORT, nor to an association without a request.
        is_silent = any(each[0] == 7 for each in chosen) or [*opening, *chosen] == [self.good_request()]
        return Talk("wrong_state", [*opening, *chosen], is_silent=is_silent)

    def stops_within_a_message(self, chance: random.Random) -> Talk:
        messages = list(self._store(chance, size=3000))
        return Talk("stops_within_a_message", [self.good_request(), *messages[: chance.randint(1, len(messages) - 1)]])

    def trickle(self, chance: random.Random) -> Talk:
        whole = self.good_request()
        count = chance.randint(2, 12)
        size = chance.choice([1, len(whole) // count])
        pieces = [whole[start : start + size] for start in range(0, count * size, size)]
        steps: list[bytes | float | str] = []
        for piece in pieces:
            steps += [piece, chance.uniform(0.0, 0.4)]
        return Talk("trickle", steps)

    def vanishes(self, chance: random.Random) -> Talk:
        whole = self.good_request() + b"".join(self._store(chance))
        return Talk(
            "vanishes", [whole[: chance.randrange(len(whole))], chance.choice([0.0, 0.02]), "reset"], hangs_up=True
        )

    def half_open(self, chance: random.Random) -> Talk:
        whole = self.good_request() + b"".join(self._store(chance))
        return Talk("half_open", [whole[: chance.randrange(len(whole))], "half-close"], hangs_up=True)

    def says_nothing(self, _chance: random.Random) -> Talk:
        return Talk("says_nothing", [], is_silent=True)

    def _store(self, chance: random.Random, size: int = 400) -> list[bytes]:
        pieces: list[bytes] = list(
            self.wire.store_messages(3, CR, b"1.2.3.4", chance.randbytes(size), piece=max(1, size // 3))
        )
        return pieces


def act(port: int, talk: Talk) -> Talk:
    """Do what the talk says; then listen until the listener ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = bytearray()
        with suppress(BrokenPipeError, ConnectionResetError):
            for step in talk.steps:
                if isinstance(step, bytes):
                    # Before that: sending to a peer that has closed makes the system drop what it had answered.
                    received += waiting(connection)
                    connection.sendall(step)
                elif isinstance(step, float):
                    time.sleep(step)
                elif step == "half-close":
                    connection.shutdown(socket.SHUT_WR)
                else:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return talk
        deadline = time.monotonic() + PATIENCE_S
        with suppress(ConnectionResetError):
            while time.monotonic() < deadline:
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
        talk.ended = time.monotonic() < deadline
        while len(received) >= 6:
            kind, length = struct.unpack_from(">BxL", received)
            talk.seen.append(kind)
            del received[: 6 + length]
    return talk


def waiting(connection: socket.socket) -> bytes:
    """What has come and was not read yet."""
    readable, _, _ = select.select([connection], [], [], 0)
    return connection.recv(65536) if readable else b""


def was_told(talk: Talk) -> bool:
    """Whether the peer got a status, a reject, an abort, or the release or the association that it asked for."""
    answers = {RJ, DATA, RELEASED, ABORT} | ({AC} if talk.kind == "trickle" else set())
    return talk.hangs_up or talk.is_silent or bool(answers & set(talk.seen))


@pytest.mark.parametrize(
    "count", [500, pytest.param(10_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])], ids=["short", "soak"]
)
def test_whatever_a_peer_says_it_gets_an_answer_and_nobody_else_is_harmed(
    besieged: Any, unharmed: Any, wire: Any, count: int
) -> None:
    listener = besieged(
        acse_timeout_s=4.0, dimse_timeout_s=3.0, idle_timeout_s=4.0, max_associations=64, max_object_mib=8
    )
    before, files, threads = listener.around(), listener.open_files(), listener.threads()
    streams = Streams(wire)
    numbers = wire.numbers(count)
    kinds: Counter[str] = Counter()
    untold, unended = [], []

    def one(number: int) -> None:
        talk = act(listener.port, streams.draw(number))
        kinds[talk.kind] += 1
        if not talk.ended and not talk.hangs_up:
            unended.append((number, talk.kind))
        elif not was_told(talk):
            untold.append((number, talk.kind, talk.seen))

    with ThreadPoolExecutor(PEERS_AT_ONCE) as peers:
        list(peers.map(one, numbers))
    print(f"seed {wire.seed}: {len(numbers)} streams, {len(kinds)} kinds, peak {listener.peak_mib():.0f} MiB")
    assert listener.is_alive(), f"the listener died; seed {wire.seed}"
    assert not unended, f"seed {wire.seed}, connections that were never ended: {sorted(unended)[:10]}"
    assert not untold, f"seed {wire.seed}, {len(untold)} peers that were told nothing: {sorted(untold)[:10]}"
    unharmed(listener, before, files=files, threads=threads)


@pytest.mark.parametrize("count", [300, pytest.param(3000, marks=pytest.mark.soak)], ids=["short", "soak"])
def test_a_flood_of_associations_is_rejected_and_ebbs_away(
    besieged: Any, unharmed: Any, wire: Any, wait_for: Any, count: int
) -> None:
    listener = besieged(acse_timeout_s=2.0, idle_timeout_s=2.0, max_associations=10)
    before, files, threads = listener.around(), listener.open_files(), listener.threads()
    request = wire.associate_rq([(1, ECHO, [IMPLICIT])])
    with ExitStack() as stack:
        answers: Counter[int] = Counter()
        for number in range(count):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), timeout=PATIENCE_S))
            if number % 3:
                peer.sendall(request)
            if number >= 100:  # none of the first is closed by us: they are half-open to the listener
                stack.pop_all().close() if number % 100 == 0 else None
            if number % 3:
                with suppress(OSError):
                    answers[peer.recv(1)[:1] == b"\x02"] += 1
        assert answers[True] >= 10, "as many as may come in did"
        assert answers[False] > 0, "the others were rejected"
        assert listener.threads() < threads + 2 * 10 + 4 * 2 * 10 + 20, "threads are bounded"
    wait_for(lambda: wire.echoes(listener.port), "an honest peer comes in again")
    unharmed(listener, before, files=files, threads=threads)
