"""Keras imported without what it only looks for: the same scores, and nothing is missing afterwards."""

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
