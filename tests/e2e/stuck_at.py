"""Run ``cxr`` as ever, except that loading never ends at one step, as in native code that takes its time.

    python stuck_at.py STEP VERB [ARGUMENT...]

A file ``stuck`` in the current folder says that it has come there. It holds a temporary folder, as loading does.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from cxr.package.scratch import scratch_folder


def stick(*_args: Any, **_kwargs: Any) -> None:
    with scratch_folder() as folder:
        (folder / "graph.pb").write_bytes(b"a graph")
        Path("stuck").touch()
        time.sleep(1e6)


def imports() -> None:
    from inference.report import check

    check.warm_up = stick


def expansion() -> None:
    from cxr.package.shipped import Shipped

    Shipped.expand = stick  # type: ignore[method-assign, assignment]


def compilation() -> None:
    from inference.model import openvino_runtime

    openvino_runtime._compile = stick


def first_score() -> None:
    from inference.model.model import Model

    Model.score = stick  # type: ignore[method-assign, assignment]


def main() -> None:
    globals()[sys.argv.pop(1)]()
    from app.cli import main as run

    run()


if __name__ == "__main__":
    main()
