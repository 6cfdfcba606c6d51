"""The processes that decode: real crashes, real hangs, real signals."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from cxr.errors import DamagedPixels, DecoderError, ImageError, MissingObject, MissingPixels, UnsupportedPixels
from cxr.pixels.model_input import DEFAULT_RECIPE, to_model_input
from inference.worker import decode_pool
from inference.worker.decode_pool import DecodePool
from inference.worker.decode_process import ChildError, prepare

WAIT_S = 60.0


@pytest.fixture
def image(tmp_path: Path, synthetic_xray: Callable[..., Dataset]) -> Path:
    path = tmp_path / "image.dcm"
    synthetic_xray().save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A file whose open() never returns: a pipe that nobody writes to."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.fixture(scope="module")
def preparer() -> Iterator[DecodePool]:
    with DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300, max_megapixels=1) as preparer:
        yield preparer


@pytest.fixture
def children() -> Callable[[], set[int]]:
    """Give the process ids of the children that were started during the test."""

    def list_all() -> set[int]:
        return {child.pid for child in multiprocessing.active_children() if child.pid is not None}

    known = list_all()
    return lambda: list_all() - known


def test_children_prepare_the_same_pixels_as_the_function(preparer: DecodePool, image: Path) -> None:
    (pixels,) = preparer.submit(image).result(WAIT_S)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, to_model_input(image))


def test_errors_of_an_image_cross_the_process_boundary_with_their_class_and_no_cause(
    preparer: DecodePool, tmp_path: Path, synthetic_xray: Callable[..., Dataset]
) -> None:
    cases: list[tuple[type[ImageError], dict[str, Any]]] = [
        (MissingPixels, {"PixelData": None}),
        (UnsupportedPixels, {"NumberOfFrames": 2}),
        (UnsupportedPixels, {"Rows": 2000, "Columns": 2000}),
        (DamagedPixels, {"PixelData": b"\0\0"}),
        (DamagedPixels, {"BitsStored": 60}),
    ]
    for number, (expected, elements) in enumerate(cases):
        path = tmp_path / f"{number}.dcm"
        synthetic_xray(**elements).save_as(path, enforce_file_format=True)
        error = preparer.submit(path).exception(WAIT_S)
        assert type(error) is expected
        assert str(error)
        assert error.__cause__ is None
        assert "Synthetic" not in str(error)


def test_a_file_that_is_not_there_is_final_and_not_named(preparer: DecodePool, tmp_path: Path) -> None:
    error = preparer.submit(tmp_path / "SECRET").exception(WAIT_S)
    assert isinstance(error, MissingObject)
    assert not error.retryable
    assert "SECRET" not in str(error)


@pytest.mark.parametrize("kind", [MissingPixels, UnsupportedPixels, DamagedPixels, DecoderError])
def test_errors_and_refusals_survive_pickling(kind: type[DecoderError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what was received")))
    assert (type(error), str(error), error.code) == (kind, "what was received", kind.code)
    assert pickle.loads(pickle.dumps(ChildError(kind, "text"))) == ChildError(kind, "text")


def test_prepare_never_raises(tmp_path: Path) -> None:
    assert prepare(str(tmp_path), (DEFAULT_RECIPE,), 1) == ChildError(
        DecoderError, "Preparing the image failed unexpectedly (IsADirectoryError); it is retried."
    )


def test_a_hanging_decoder_fails_its_image_alone(image: Path, hanging: Path) -> None:
    with DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=1.0) as preparer:
        preparer.submit(image).result(WAIT_S)
        hung, next_one = preparer.submit(hanging), preparer.submit(image)
        with pytest.raises(DecoderError, match="took longer than 1 s"):
            hung.result(WAIT_S)
        assert next_one.result(WAIT_S)[0].shape == (224, 224, 1)


@pytest.mark.parametrize("killed_by", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_fails_the_image_in_hand_and_the_next_one_is_prepared(
    killed_by: signal.Signals,
    image: Path,
    hanging: Path,
    wait_for: Callable[..., Any],
    children: Callable[[], set[int]],
) -> None:
    with DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300) as preparer:
        preparer.submit(image).result(WAIT_S)
        (pid,) = children()
        crashed = preparer.submit(hanging)
        wait_for(lambda: is_waiting_for_writer(hanging), "the child opens the pipe")
        os.kill(pid, killed_by)
        with pytest.raises(DecoderError, match=f"code -{killed_by.value}"):
            crashed.result(WAIT_S)
        assert preparer.submit(image).result(WAIT_S)[0].shape == (224, 224, 1)


def test_killing_every_idle_child_is_survived(
    image: Path, wait_for: Callable[..., Any], children: Callable[[], set[int]]
) -> None:
    with DecodePool(DEFAULT_RECIPE, processes=2, timeout_s=300) as preparer:

        def is_preparing() -> bool:
            error = preparer.submit(image).exception(WAIT_S)  # every image has an outcome, whatever it is
            assert error is None or isinstance(error, DecoderError)
            return error is None

        for _ in range(3):
            wait_for(is_preparing, "images are prepared")
            killed = children()
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
            wait_for(lambda killed=killed: not killed & children(), "the killed children are gone")
        wait_for(is_preparing, "images are prepared again")


def test_a_pool_whose_processes_wait_for_each_other_is_replaced(
    image: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., Any]
) -> None:
    monkeypatch.setattr(decode_pool, "_START_S", 15.0)  # a loaded machine starts them slowly
    with DecodePool(DEFAULT_RECIPE, processes=2, timeout_s=0.5) as preparer:
        wait_for(lambda: preparer.submit(image).exception(WAIT_S) is None, "the processes are up")
        # As a process leaves it that is killed while it hands over a result: locked for ever.
        mutex = preparer._pool.processes._pool_manager.worker_manager.workers_channel.mutex
        assert mutex.acquire(timeout=WAIT_S)
        assert preparer.submit(image).exception(WAIT_S) is None, "no process had begun with it: another pool takes it"
        wait_for(lambda: preparer.submit(image).exception(WAIT_S) is None, "images are prepared again", 120)


def test_signals_to_the_group_leave_the_image_in_hand_alone(
    image: Path, hanging: Path, wait_for: Callable[..., Any], children: Callable[[], set[int]]
) -> None:
    with DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300) as preparer:
        preparer.submit(image).result(WAIT_S)
        (pid,) = children()
        in_hand = preparer.submit(hanging)
        wait_for(lambda: is_waiting_for_writer(hanging), "the child opens the pipe")
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        # Each look opens the pipe for a moment, so that the child reads on, to the end.
        wait_for(lambda: (is_waiting_for_writer(hanging), in_hand.done())[1], "the child comes to the end")
        assert isinstance(in_hand.exception(WAIT_S), ImageError | DecoderError)
        assert children() == {pid}
        assert preparer.submit(image).result(WAIT_S)[0].shape == (224, 224, 1)


def test_closing_ends_the_children_and_fails_what_is_not_done(
    image: Path, hanging: Path, children: Callable[[], set[int]]
) -> None:
    preparer = DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300)
    with preparer:
        preparer.submit(image).result(WAIT_S)
        in_hand, queued = preparer.submit(hanging), preparer.submit(image)
    for future in (in_hand, queued):
        assert isinstance(future.exception(0), DecoderError)
    assert children() == set()
    with pytest.raises(DecoderError, match="closed"):
        preparer.submit(image)


def test_a_pool_that_breaks_while_it_is_closed_is_not_replaced(
    image: Path, hanging: Path, children: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300) as preparer:
        preparer.submit(image).result(WAIT_S)
        unfinished = [preparer.submit(hanging), *(preparer.submit(image) for _ in range(3))]
        pool = preparer._pool.processes
        stop = pool.stop

        def stop_as_broken() -> None:
            # What pebble's reading thread does when the pipe is closed under it.
            stop()
            pool._pool_manager.handle_broken_pool(BrokenProcessPool("closed"))

        monkeypatch.setattr(pool, "stop", stop_as_broken)
    assert all(isinstance(future.exception(0), DecoderError) for future in unfinished)
    assert children() == set()


def test_children_do_not_outlive_a_killed_worker(image: Path, hanging: Path, wait_for: Callable[..., Any]) -> None:
    script = f"""
        import multiprocessing, sys, time
        from pathlib import Path
        from cxr.pixels.model_input import DEFAULT_RECIPE
        from inference.worker.decode_pool import DecodePool

        if __name__ == "__main__":
            preparer = DecodePool(DEFAULT_RECIPE, processes=2, timeout_s=300).__enter__()
            preparer.submit(Path({str(image)!r})).result()
            preparer.submit(Path({str(hanging)!r}))
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            time.sleep(300)
    """
    main = image.parent / "worker.py"
    main.write_text(textwrap.dedent(script))
    with subprocess.Popen([sys.executable, str(main)], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        pids = [int(pid) for pid in worker.stdout.readline().split()]
        assert len(pids) == 2
        wait_for(lambda: is_waiting_for_writer(hanging), "a child opens the pipe")
        worker.kill()
    wait_for(lambda: not any(is_running(pid) for pid in pids), "the children end with their parent")


def test_a_child_never_imports_tensorflow() -> None:
    script = "import sys, inference.worker.decode_process; print('tensorflow' in sys.modules or 'keras' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


def is_waiting_for_writer(pipe: Path) -> bool:
    """Whether some process stands in open() on the pipe: a writer that does not wait gets in."""
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_decoder_gets_no_more_memory_than_the_largest_image_may_need() -> None:
    """512 MiB and 16 bytes a pixel, beyond what the code itself takes."""
    code = """
        import ctypes, numpy as np
        from inference.worker.decode_process import start
        start(ctypes.c_bool(False), 4)
        np.ones(400 << 20, np.uint8)
        try:
            np.ones(700 << 20, np.uint8)
        except MemoryError:
            print("bounded")
        np.ones(400 << 20, np.uint8)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout == "bounded\n"


def test_a_pool_that_does_not_come_back_from_being_stopped_holds_up_no_end(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_pool, "_END_S", 0.5)
    come_back = threading.Event()
    preparer = DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300).__enter__()
    preparer.submit(image).result(WAIT_S)
    join = preparer._pool.processes.join
    monkeypatch.setattr(preparer._pool.processes, "join", lambda: come_back.wait(200) and join())
    closing = threading.Thread(target=preparer.close, daemon=True)
    closing.start()
    closing.join(WAIT_S)
    is_closed = not closing.is_alive()
    come_back.set()
    assert is_closed


def test_the_watch_goes_on_where_no_new_processes_can_be_started_for_now(
    image: Path, unexpected_faults: list[str]
) -> None:
    """Who is without a watch waits for ever for what a lost process was to prepare."""
    with DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300) as preparer:
        preparer.submit(image).result(WAIT_S)
        refused = threading.Event()
        new_pool = preparer._new_pool

        def refuse() -> Any:
            refused.set()
            raise OSError(errno.EMFILE, "Too many open files")

        preparer._new_pool = refuse  # type: ignore[method-assign]
        preparer._pool.processes.stop()  # as pebble does when it gives up
        assert refused.wait(WAIT_S)
        preparer._new_pool = new_pool  # type: ignore[method-assign]
        deadline = time.monotonic() + WAIT_S
        while not preparer._pool.processes.active:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        preparer.submit(image).result(WAIT_S)
    assert {"Too many open files" in fault for fault in unexpected_faults} == {True}
    unexpected_faults.clear()


def test_images_that_no_process_had_begun_with_are_not_charged(
    image: Path, wait_for: Callable[..., Any], children: Callable[[], set[int]]
) -> None:
    """All processes die while they are idle, as in a storm of kills: what comes next has no part in that."""
    with DecodePool(DEFAULT_RECIPE, processes=2, timeout_s=300) as preparer:
        wait_for(lambda: len(children()) == 2, "the processes are there")
        preparer.submit(image).result(WAIT_S)
        for pid in children():
            os.kill(pid, signal.SIGSTOP)  # they take nothing up
        waiting = [preparer.submit(image) for _ in range(12)]
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        assert [future.exception(WAIT_S) for future in waiting] == [None] * 12


def test_of_twelve_images_the_two_in_hand_are_charged(
    image: Path, tmp_path: Path, wait_for: Callable[..., Any], children: Callable[[], set[int]]
) -> None:
    pipes = [tmp_path / f"pipe{number}" for number in range(2)]
    with DecodePool(DEFAULT_RECIPE, processes=2, timeout_s=300) as preparer:
        preparer.submit(image).result(WAIT_S)
        for pipe in pipes:
            os.mkfifo(pipe)
        in_hand = [preparer.submit(pipe) for pipe in pipes]
        for pipe in pipes:
            wait_for(lambda pipe=pipe: is_waiting_for_writer(pipe), "a child opens the pipe")
        waiting = [preparer.submit(image) for _ in range(10)]
        for pid in children():
            os.kill(pid, signal.SIGKILL)
        assert {type(future.exception(WAIT_S)) for future in in_hand} == {DecoderError}
        assert [future.exception(WAIT_S) for future in waiting] == [None] * 10


def test_an_image_that_breaks_every_pool_fails_at_last(image: Path) -> None:
    with DecodePool(DEFAULT_RECIPE, processes=1, timeout_s=300) as preparer:
        preparer.submit(image).result(WAIT_S)
        new_pool = preparer._new_pool

        def broken() -> Any:
            pool = new_pool()
            pool.processes.stop()
            return pool

        preparer._new_pool = broken  # type: ignore[method-assign]
        preparer._pool.processes.stop()
        error = preparer.submit(image).exception(WAIT_S)
        preparer._new_pool = new_pool  # type: ignore[method-assign]
        assert isinstance(error, DecoderError)
