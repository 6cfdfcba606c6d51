"""Keras imported without its optional packages: the same scores, and nothing is missing afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from inference.model.model import Model

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from cxr.package.folder import load_package
from inference.model.model import Model
package = load_package(Path(sys.argv[1]))
model = Model.load(package, device="cpu")
loaded = sorted({name.partition(".")[0] for name in sys.modules})
size = package.manifest.input_size
scores = model.score(np.linspace(0, 1, 2 * size * size, dtype=np.float32).reshape(2, size, size, 1)).probabilities
import matplotlib, pandas, scipy, sklearn
print(json.dumps([loaded, scores.tolist()]))
"""


REFUSED = """
import sys, threading
from inference.model.refused_imports import RefusedImports, refuse_from_now_on, without_optional

def is_importable(name):
    try:
        __import__(name)
    except ModuleNotFoundError as error:
        assert error.name == name
        return False
    return True

seen = []
with without_optional():
    assert not is_importable("pandas") and "pandas" not in sys.modules
    other = threading.Thread(target=lambda: seen.append(is_importable("pandas")))
    other.start()
    other.join()
assert seen == [True]  # another thread is not affected
assert is_importable("scipy")
for _ in range(2):
    refuse_from_now_on("calendar_that_is_refused")
assert not is_importable("calendar_that_is_refused") and is_importable("json")
assert sum(isinstance(hook, RefusedImports) for hook in sys.meta_path) == 1
"""


def test_imports_are_refused_to_one_thread_and_inside_the_block_only() -> None:
    subprocess.run([sys.executable, "-c", REFUSED], check=True, timeout=120)


def test_a_worker_loads_a_model_without_them_and_scores_the_same(tiny_package: Callable[..., Any]) -> None:
    package = tiny_package()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(package.folder)], capture_output=True, text=True, check=True, timeout=300
    )
    loaded, scores = json.loads(done.stdout.splitlines()[-1])
    assert {"keras", "tensorflow"} <= set(loaded)
    assert {"matplotlib", "pandas", "scipy", "sklearn"} & set(loaded) == set()
    size = package.manifest.input_size
    films = np.linspace(0, 1, 2 * size * size, dtype=np.float32).reshape(2, size, size, 1)
    assert Model.load(package, device="cpu").score(films).probabilities.tolist() == scores
