"""Atomic files of training: content and folder are synced, and an error keeps the old content."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from training.files import whole_file, write_document, write_json, write_whole


def test_a_file_is_synced_before_its_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Record the order of the real calls: a power failure can't be tried here."""
    order: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        order.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        assert Path(source).read_bytes() == b"abc"
        order.append(("rename", Path(target).name))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with whole_file(tmp_path / "a.bin") as file:
        file.write(b"abc")
        temporary = Path(f"/proc/self/fd/{file.fileno()}").readlink()

    assert temporary.parent == tmp_path
    assert temporary.name.startswith(".")
    assert order == [("fsync", temporary.name), ("rename", "a.bin"), ("fsync", tmp_path.name)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_an_error_keeps_the_old_content_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def write_and_fail() -> None:
        with whole_file(path) as file:
            file.write(b"ne")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix_their_content(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"11")
        second.write(b"222")
        first.write(b"11")
    assert path.read_bytes() == b"1111"
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_owner_reads_a_private_file(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "patients.csv", "a")
        assert stat.S_IMODE((tmp_path / "patients.csv").stat().st_mode) == 0o644
        write_whole(tmp_path / "patients.csv", "b", private=True)
        assert stat.S_IMODE((tmp_path / "patients.csv").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_the_longest_name_that_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    write_whole(path, "é")
    assert path.read_bytes() == "é".encode()


def test_json_is_written_whole_and_text_is_utf_8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "x"})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": "x",\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert (tmp_path / "a.json").read_text().startswith('{\n  "a"')
    write_document({"Größe": 1 / 3}, tmp_path / "new" / "b.json")
    assert (tmp_path / "new" / "b.json").read_bytes() == '{\n  "Größe": 0.333333\n}\n'.encode()
