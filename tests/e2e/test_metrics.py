"""What Prometheus reads of a service that has scored and delivered an image."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from pydicom.dataset import Dataset

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"

SETTINGS = """
[report]
deliver_untrained = true
[[destinations]]
name = "out"
kind = "folder"
address = "{folder}"
verify_after_s = 0.2
[metrics]
worker_port = {port}
"""


def documented() -> set[str]:
    """Names of the worker's metrics in the table of the operator's page."""
    (table,) = re.findall(
        r"<!-- table: worker_metrics -->(.*?)<!-- end of table -->", OPERATIONS.read_text(), re.DOTALL
    )
    return set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))


def test_a_scrape_of_the_worker_says_what_was_scored_by_what_and_how_long_it_took(
    service: Callable[..., Any],
    synthetic_xray: Callable[..., Dataset],
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    port = free_port()
    (tmp_path / "out").mkdir()
    installation = service(SETTINGS.format(folder=tmp_path / "out", port=port))
    installation.start("serve")
    assert installation.send(synthetic_xray()) == [0]
    rows = installation.wait_until_finished(1)
    installation.wait_until_delivered(1)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }

    for row in rows:
        assert samples["cxr_score_count", ("finding", row["finding"])] == 1
        assert round(samples["cxr_score_sum", ("finding", row["finding"])], 6) == round(row["score"], 6)
    assert samples["cxr_report_seconds_count",] == 1
    assert samples["cxr_report_seconds_sum",] > 0
    assert samples["cxr_delivery_seconds_count", ("destination", "out")] == 1
    assert samples["cxr_oldest_job_seconds", ("state", "queued")] == 0
    assert samples["cxr_jobs", ("state", "reported")] == 1
    (model,) = [dict(labels) for name, *labels in samples if name == "cxr_model_info"]
    assert (model["fingerprint"], model["status"]) == (rows[0]["fingerprint"], "untrained")
    served = {each.name for each in families if each.name.startswith("cxr_") and not each.name.endswith("_created")}
    served.add("cxr_shadow_images")  # there is no shadow here
    assert served == {name.removesuffix("_total") for name in documented()}
