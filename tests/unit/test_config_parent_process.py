"""A child process ends with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PIPE_CHILD = """
import os, time
from config.parent_process import call_at_parent_end
call_at_parent_end(lambda: os._exit(7))
time.sleep(60)
"""

KILLED_PARENT = """
import multiprocessing, os, signal, time
from config.parent_process import end_with_parent

def sleep(started):
    end_with_parent()
    started.set()
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    context.Process(target=sleep, args=(started,)).start()
    started.wait()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_action_is_called_when_the_pipe_from_the_parent_is_closed(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PIPE_CHILD], input=b"", cwd=root, timeout=30, check=False)
    assert done.returncode == 7


def test_a_child_of_multiprocessing_ends_with_a_killed_parent(root: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT, encoding="utf-8")
    # The child inherits standard output: it is read to its end only when the child has ended, too.
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        timeout=30,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
