"""Text of others can't steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr.printable import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2Jcard", "card"),
        ("a\x1b]0;title\x07b", "ab"),
        ("a\x1b]52;c;Y2xpcA==\x1b\\b", "ab"),
        ("a\x9b31mred", "ared"),
        ("a\x9d0;title\x9cb", "ab"),
        ("P1\x07\x08\x7f", "P1"),
        ("a\x1bPq#0\x1b\\b", "ab"),
        ("a\x1b(0b\x1b7c", "abc"),
        ("abc\u202edef", "abcdef"),
        ("a\x00b\x85c\u2028d", "abcd"),
        ("Müller 山田 الصدر\u200d", "Müller 山田 الصدر\u200d"),
        ("unfinished\x1b[", "unfinished"),
    ],
)
def test_sequences_and_controls_are_left_out(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(text, lines=True) == expected


def test_lines_and_tabs_stay_where_they_are_wanted() -> None:
    assert printable("a\n\tb\r\n", lines=True) == "a\n\tb\n"
    assert printable("a\n\tb\r\n") == "ab"
    assert printable("a\x1b]0;never ended\nnext line", lines=True) == "a\nnext line"


@given(st.text())
def test_nothing_that_is_left_is_a_control_character(text: str) -> None:
    left = printable(text)
    assert not any(ord(each) < 32 or 127 <= ord(each) < 160 for each in left)
    assert printable(left) == left
