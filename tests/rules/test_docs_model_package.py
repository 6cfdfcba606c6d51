"""docs/model-package.md names every field of the format, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from cxr.errors import IncompatiblePackage
from cxr.package import MANIFEST_FILE, manifest
from cxr.package.folder import REQUIRED_FILES
from cxr.pixels.recipe import DEFAULT_RECIPE, PixelRecipe
from inference.registry import gates

PARTS = {
    "The manifest": manifest.PackageManifest,
    "One of `classes`": manifest.PackageClass,
    "`operating_point`": manifest.OperatingPoint,
    "One of `accepted_gates`": manifest.AcceptedGate,
    "`outputs`": manifest.Outputs,
    "`provenance`": manifest.Provenance,
}


@pytest.mark.parametrize("heading", PARTS)
def test_fields_of_the_manifest(page: Callable[[str], Any], heading: str) -> None:
    rows = {row[0].strip("`"): row for row in page("model-package.md").tables[heading]}
    model = PARTS[heading]
    assert list(rows) == list(model.model_fields)
    needed = {name for name, info in model.model_fields.items() if info.is_required()}
    # parse_manifest refuses a manifest without its version, whatever the default is for writing one.
    needed |= {"format_version", "files"} & set(rows)
    assert {name for name, row in rows.items() if row[1] == "yes"} == needed


def test_every_part_of_the_manifest_is_documented() -> None:
    parts = {value for value in vars(manifest).values() if isinstance(value, type) and issubclass(value, BaseModel)}
    assert parts - {BaseModel, manifest._Part} == set(PARTS.values())


def test_fields_of_the_recipe(page: Callable[[str], Any]) -> None:
    rows = page("model-package.md").tables["`recipe`"]
    assert [row[0].strip("`") for row in rows] == [field.name for field in fields(PixelRecipe)]
    optional = {row[0].strip("`") for row in rows if row[1] != "yes"}
    assert optional == {name for name in optional if _reads_without(name)}
    assert not any(_reads_without(row[0].strip("`")) for row in rows if row[1] == "yes")


def _reads_without(name: str) -> bool:
    document = {field.name: getattr(DEFAULT_RECIPE, field.name) for field in fields(PixelRecipe) if field.name != name}
    try:
        PixelRecipe.from_dict(document)
    except IncompatiblePackage:
        return False
    return True


def test_files_gates_and_figures(page: Callable[[str], Any]) -> None:
    document = page("model-package.md")
    assert set(document.column("Model packages")) == {MANIFEST_FILE, *REQUIRED_FILES}
    names = {value for name, value in vars(gates).items() if name.isupper() and isinstance(value, str)}
    names = {name for name in names if not name.endswith(".npz") and " " not in name}
    assert {gates.TRAINED, gates.EVALUATED} <= names
    for gate in names:
        assert f"`{gate}`" in document.text
    assert f"default {manifest.DEVICE_TOLERANCE:g}" in document.text
