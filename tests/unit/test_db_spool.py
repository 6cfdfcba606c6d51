"""The spool: durable, complete or absent, and never under a peer's name."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from blake3 import blake3

from cxr.errors import SpoolFull, StorageError
from db.disk import Spool, SweepResult


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool", min_free_mib=0)
    made.prepare()
    return made


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "spool.id")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_kept_object_has_every_byte_and_the_digest_of_the_dataset_alone(spool: Spool) -> None:
    header, fragments = os.urandom(300), [os.urandom(size) for size in (1, 16_000, 131_072, 400_000, 7)]

    incoming = spool.open_incoming()
    incoming.write_header(header)
    for fragment in fragments:
        incoming.write(fragment)
    name = spool.keep(incoming)

    dataset = b"".join(fragments)
    assert spool.path(name).read_bytes() == header + dataset
    assert incoming.digest == blake3(dataset).hexdigest()
    assert incoming.size == len(dataset)
    assert list(spool.incoming_dir.iterdir()) == []


def test_a_reader_sees_the_whole_object_after_a_flush_and_before_it_is_kept(spool: Spool) -> None:
    with spool.open_incoming() as incoming:
        incoming.write_header(b"head")
        incoming.write(b"body")
        incoming.flush()
        assert incoming.path.read_bytes() == b"headbody"
        assert incoming.name == str(incoming.path)


def test_small_fragments_are_gathered_not_written_one_by_one(spool: Spool) -> None:
    with spool.open_incoming() as incoming:
        incoming.write(b"x" * 16_384)
        assert incoming.path.stat().st_size == 0
        incoming.write(b"x" * 1_000_000)
        assert incoming.path.stat().st_size == 1_016_384


def test_a_cut_transfer_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError), spool.open_incoming() as incoming:
        incoming.write(b"x" * 1_000_000)
        raise ConnectionError
    assert files(tmp_path / "spool") == []


def test_discard_is_harmless_twice_and_after_keep(spool: Spool) -> None:
    incoming = spool.open_incoming()
    incoming.write(b"abc")
    name = spool.keep(incoming)
    incoming.discard()
    incoming.discard()
    assert incoming.closed
    assert spool.path(name).read_bytes() == b"abc"


def test_nothing_is_appended_to_a_kept_object(spool: Spool) -> None:
    incoming = spool.open_incoming()
    name = spool.keep(incoming)
    with pytest.raises(ValueError, match="kept or discarded"):
        incoming.write(b"late")
    assert spool.path(name).read_bytes() == b""


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        spool = Spool(tmp_path / "site" / "spool", min_free_mib=0)
        spool.prepare()
        report = spool.write(b"report", suffix=".dcm")
        with spool.open_incoming() as incoming:
            assert mode(incoming.path) == 0o600
            kept = spool.keep(incoming)
    finally:
        os.umask(previous)
    assert {mode(spool.path(name)) for name in (report, kept)} == {0o600}
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}
    assert {mode(path) for path in tmp_path.rglob("spool.id")} == {0o600}


def test_a_file_is_synced_before_it_has_its_name_and_its_folder_after(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Watch the real calls: what power loss would leave can't be tried here."""
    order: list[tuple[str, str]] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        order.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        order.append(("rename", str(target)))
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    incoming = spool.open_incoming()
    incoming.write(b"abc")
    kept = spool.path(spool.keep(incoming))

    assert order == [("fsync", incoming.name), ("rename", str(kept)), ("fsync", str(kept.parent))]


def test_names_are_random_and_say_which_half_of_the_spool(spool: Spool) -> None:
    kept = [spool.keep(spool.open_incoming()) for _ in range(20)]
    written = [spool.write(b"", suffix=".dcm") for _ in range(20)]
    assert len({*kept, *written}) == 40
    assert all(re.fullmatch(r"objects/(..)/\1[0-9a-f]{30}\.dcm", name) for name in kept)
    assert all(re.fullmatch(r"reports/(..)/\1[0-9a-f]{30}\.dcm", name) for name in written)
    assert sorted(spool.names()) == sorted([*kept, *written])


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../audit.sqlite",
        "objects/../../audit.sqlite",
        "/etc/passwd",
        "objects/ab/cd000000000000000000000000000000.dcm",  # not its folder
        "objects/ab/ab000000000000000000000000000000.dcm\n",
        "objects/ab/ab000000000000000000000000000000/x.dcm",
        "objects/ab/AB000000000000000000000000000000.dcm",
        "quarantine/ab/ab000000000000000000000000000000.dcm",
        "1.2.840.113619.2.1.dcm",
    ],
)
def test_a_name_that_the_spool_did_not_give_is_refused_without_being_quoted(spool: Spool, name: str) -> None:
    with pytest.raises(StorageError) as caught:
        spool.path(name)
    assert "1.2.840" not in str(caught.value)
    assert "passwd" not in str(caught.value)


def test_a_suffix_with_a_path_in_it_is_refused_and_leaves_nothing(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        spool.write(b"x", suffix="/../../escaped.dcm")
    assert files(tmp_path) == []


def test_remove_says_whether_the_file_was_there(spool: Spool) -> None:
    name = spool.write(b"x", suffix=".dcm")
    assert spool.remove(name)
    assert not spool.remove(name)
    assert not spool.path(name).exists()


def test_on_an_unmounted_spool_nothing_counts_as_removed(spool: Spool, tmp_path: Path) -> None:
    name = spool.write(b"x", suffix=".dcm")
    (tmp_path / "spool").rename(tmp_path / "elsewhere")
    (tmp_path / "spool").mkdir()
    with pytest.raises(SpoolFull, match="mount"):
        spool.remove(name)


def test_what_cannot_get_its_name_is_not_left_behind(spool: Spool, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "spool" / "objects")
    incoming = spool.open_incoming()
    incoming.write(b"abc")
    with pytest.raises(SpoolFull, match="mount"):
        spool.keep(incoming)
    assert files(tmp_path / "spool") == []


# The guard


def test_a_restart_finds_its_spool(spool: Spool, tmp_path: Path) -> None:
    name = spool.write(b"x", suffix=".dcm")
    again = Spool(tmp_path / "spool", min_free_mib=0)
    again.prepare()
    assert again.path(name).read_bytes() == b"x"


def test_an_unmounted_spool_is_not_written(spool: Spool, tmp_path: Path) -> None:
    """What an unmounted disk leaves: the empty folder that it was mounted on."""
    (tmp_path / "spool").rename(tmp_path / "elsewhere")
    (tmp_path / "spool").mkdir()
    with pytest.raises(StorageError, match=r"spool\.id"):
        Spool(tmp_path / "spool", min_free_mib=0).prepare()
    with pytest.raises(SpoolFull, match="mount"):
        spool.open_incoming()
    with pytest.raises(SpoolFull, match="mount"):
        spool.write(b"x", suffix=".dcm")
    assert list((tmp_path / "spool").iterdir()) == []


def test_another_installations_spool_is_not_written(spool: Spool, tmp_path: Path) -> None:
    Spool(tmp_path / "other" / "spool", min_free_mib=0).prepare()
    (tmp_path / "spool").rename(tmp_path / "elsewhere")
    (tmp_path / "other" / "spool").rename(tmp_path / "spool")
    with pytest.raises(StorageError, match="another's"):
        Spool(tmp_path / "spool", min_free_mib=0).prepare()


def test_a_spool_replaced_on_purpose_is_accepted_when_told_so(spool: Spool, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "spool")
    (tmp_path / "spool.id").unlink()
    spool.prepare()
    assert spool.path(spool.write(b"x", suffix=".dcm")).exists()


def test_many_may_prepare_a_new_spool_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def prepare(_: int) -> None:
        barrier.wait()
        Spool(tmp_path / "spool", min_free_mib=0).prepare()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, range(8)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool", "spool.id"]
    assert (tmp_path / "spool.id").read_text() == (tmp_path / "spool" / "spool.id").read_text()


# The sweep


def age(path: Path, by: timedelta) -> None:
    then = path.stat().st_mtime - by.total_seconds()
    os.utime(path, (then, then))


def test_the_sweep_quarantines_what_no_row_knows_and_removes_leftovers(spool: Spool) -> None:
    known, unknown, young = (spool.write(name, suffix=".dcm") for name in (b"known", b"unknown", b"young"))
    leftover, live = spool.open_incoming(), spool.open_incoming()
    for path in (spool.path(known), spool.path(unknown), leftover.path):
        age(path, timedelta(hours=1))

    swept = spool.sweep(lambda name: name == known, older_than=datetime.now(UTC) - timedelta(minutes=30))

    assert swept == SweepResult(quarantined=1, leftovers=1)
    assert sorted(spool.names()) == sorted([known, young])
    assert [path.read_bytes() for path in spool.quarantine_dir.iterdir()] == [b"unknown"]
    assert list(spool.incoming_dir.iterdir()) == [live.path]
    for incoming in (leftover, live):
        incoming.discard()


def test_the_sweep_asks_again_right_before_it_moves_a_file(spool: Spool) -> None:
    """A row that was committed while the sweep ran is seen."""
    name = spool.write(b"x", suffix=".dcm")
    age(spool.path(name), timedelta(hours=1))
    asked: list[bool] = []

    def is_known(asked_name: str) -> bool:
        asked.append(spool.path(asked_name).exists())
        return True

    assert spool.sweep(is_known, older_than=datetime.now(UTC)) == SweepResult(quarantined=0, leftovers=0)
    assert asked == [True]


# Space: real disks that refuse


def test_full_is_less_free_than_the_floor(tmp_path: Path) -> None:
    roomy = Spool(tmp_path, min_free_mib=0)
    assert not roomy.is_full()
    assert roomy.free_mib() > 0
    assert Spool(tmp_path, min_free_mib=roomy.free_mib() * 10 + 1).is_full()


FILL = """
import sys
from pathlib import Path
from cxr.errors import SpoolFull
from db.disk.spool import Spool

spool = Spool(Path(sys.argv[1]) / "spool", min_free_mib=0)
spool.prepare()
before = spool.write(b"kept before", suffix=".dcm")
{limit}
refused = 0
for size in ({size}, {size}):
    incoming = spool.open_incoming()
    try:
        incoming.write_header(b"head")
        for _ in range(size // 65536):
            incoming.write(b"x" * 65536)
        spool.keep(incoming)
    except SpoolFull as error:
        refused += 1
        print(error)
    finally:
        incoming.discard()
{unlimit}
assert refused == 2, refused
assert list(spool.incoming_dir.iterdir()) == []
assert list(spool.names()) == [before], list(spool.names())
assert spool.path(before).read_bytes() == b"kept before"
after = spool.open_incoming()
after.write(b"y" * 300_000)
assert spool.path(spool.keep(after)).stat().st_size == 300_000
"""


def run(script: str, folder: Path, *prefix: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def mount_as(tmp_path: Path) -> list[str]:
    """Command prefix that mounts something on ``tmp_path/disk`` in a mount namespace of its own."""
    (tmp_path / "disk").mkdir()
    unshare = shutil.which("unshare")
    probe = ["mount", "-t", "tmpfs", "none", str(tmp_path / "disk")]
    if unshare is None or subprocess.run([unshare, "-rm", *probe], capture_output=True, check=False).returncode != 0:
        pytest.skip("no user namespaces here (unshare -rm): a real full disk can't be made")
    return [unshare, "-rm", "sh", "-c", 'mount -t tmpfs -o "$0" none "$1"; shift; exec "$@"']


def test_a_really_full_disk_is_refused_leaves_nothing_and_recovers(mount_as: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    done = run(FILL.format(size=8 << 20, limit="", unlimit=""), disk, *mount_as, "size=4m", str(disk))
    assert done.returncode == 0, done.stderr
    assert "ENOSPC" in done.stdout


def test_a_full_disk_that_is_noticed_only_at_the_last_flush_is_refused_too(mount_as: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    script = """
import os, sys
from pathlib import Path
from cxr.errors import SpoolFull
from db.disk.spool import Spool
spool = Spool(Path(sys.argv[1]) / "spool", min_free_mib=0)
spool.prepare()
free = os.statvfs(sys.argv[1])
(Path(sys.argv[1]) / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize - 65536))
incoming = spool.open_incoming()
incoming.write(b"x" * 131072)
try:
    spool.keep(incoming)
except SpoolFull:
    print("refused")
assert list(spool.names()) == [] and list(spool.incoming_dir.iterdir()) == []
"""
    done = run(script, disk, *mount_as, "size=4m", str(disk))
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


def test_a_disk_that_turned_read_only_is_refused(mount_as: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    script = """
import subprocess, sys
from pathlib import Path
from cxr.errors import SpoolFull
from db.disk.spool import Spool
spool = Spool(Path(sys.argv[1]) / "spool", min_free_mib=0)
spool.prepare()
subprocess.run(["mount", "-o", "remount,ro", sys.argv[1]], check=True)
try:
    spool.open_incoming()
except SpoolFull as error:
    print(error.__cause__.strerror)
"""
    done = run(script, disk, *mount_as, "size=4m", str(disk))
    assert (done.returncode, done.stdout) == (0, "Read-only file system\n"), done.stderr


def test_no_free_inode_is_full(mount_as: list[str], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    script = """
import sys
from pathlib import Path
from cxr.errors import SpoolFull
from db.disk.spool import Spool
spool = Spool(Path(sys.argv[1]) / "spool", min_free_mib=0)
spool.prepare()
assert not spool.is_full()
try:
    for _ in range(1000):
        spool.write(b"", suffix=".dcm")
except SpoolFull:
    print(spool.is_full(), spool.free_mib() > 0)
"""
    done = run(script, disk, *mount_as, "size=64m,nr_inodes=700", str(disk))
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr


def test_a_file_size_limit_is_a_refusal(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))"
    unlimit = "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))"
    done = run(FILL.format(size=4 << 20, limit=limit, unlimit=unlimit), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "EFBIG" in done.stdout


def test_killed_while_receiving_the_sweep_leaves_no_trace(spool: Spool, tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from db.disk.spool import Spool
incoming = Spool(Path(sys.argv[1]) / "spool", min_free_mib=0).open_incoming()
incoming.write(b"x" * 1_000_000)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(script, tmp_path).returncode == -9
    assert len(list(spool.incoming_dir.iterdir())) == 1
    assert spool.sweep(lambda _: True, older_than=datetime.now(UTC) + timedelta(seconds=5)).leftovers == 1
    assert list(spool.incoming_dir.iterdir()) == []
