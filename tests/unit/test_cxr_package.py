from __future__ import annotations

import json
import os
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cxr.domain import Code, PackageStatus
from cxr.errors import DamagedPackage, IncompatiblePackage, PackageError
from cxr.package import (
    AcceptedGate,
    ModelPackage,
    OperatingPoint,
    PackageClass,
    PackageManifest,
    Provenance,
    load_package,
    read_manifest,
    write_package,
)
from cxr.package.lung_mask import LungMaskComponent
from cxr.package.manifest import fingerprint_of, parse_manifest, to_document
from cxr.pixels.recipe import DEFAULT_RECIPE, PixelRecipe

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CONTENTS = {"model.keras": b"weights", "MODEL_CARD.md": b"# card"}


def make_manifest(**changes: Any) -> PackageManifest:
    fields: dict[str, Any] = {
        "name": "example",
        "version": "1.0",
        "status": PackageStatus.EVALUATED,
        "classes": (
            PackageClass(
                finding="covid19",
                code=Code(value="840539006", scheme_designator="SCT", meaning="COVID-19"),
                threshold=0.25,
            ),
        ),
        "activation": "sigmoid",
        "recipe": DEFAULT_RECIPE,
        "provenance": Provenance(training_data="example", architecture="tiny", created=NOW, seed=1),
    }
    return PackageManifest(**(fields | changes))


@pytest.fixture
def package(tmp_path: Path) -> ModelPackage:
    return write_package(tmp_path / "package", make_manifest(), CONTENTS)


def edit(package: ModelPackage, **changes: Any) -> None:
    """Change package.json as an editor would."""
    path = package.folder / "package.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_package_is_read_as_it_was_written(package: ModelPackage) -> None:
    loaded = load_package(package.folder)
    assert loaded == package
    assert loaded.manifest == make_manifest(files=loaded.manifest.files)
    assert set(loaded.manifest.files) == set(CONTENTS)
    assert loaded.model_path.read_bytes() == b"weights"
    assert read_manifest(package.folder) == (package.manifest, package.fingerprint)


def test_the_manifest_says_what_a_reader_looks_for(package: ModelPackage) -> None:
    document = json.loads((package.folder / "package.json").read_text())
    assert document["format_version"] == 1
    assert document["classes"][0]["code"] == {
        "value": "840539006",
        "scheme_designator": "SCT",
        "meaning": "COVID-19",
    }
    assert document["recipe"] == DEFAULT_RECIPE.to_dict()
    assert document["score_tolerance"] == 1e-3
    assert document["provenance"]["created"] == "2026-01-02T03:04:05Z"


@pytest.mark.parametrize("name", sorted(CONTENTS))
@pytest.mark.parametrize("change", ["altered", "removed", "linked", "folder", "unreadable"])
def test_a_file_that_is_not_what_was_exported_is_refused(package: ModelPackage, name: str, change: str) -> None:
    path = package.folder / name
    content = path.read_bytes()
    path.unlink()
    if change == "altered":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif change == "linked":
        elsewhere = package.folder.parent / "elsewhere"
        elsewhere.write_bytes(content)
        path.symlink_to(elsewhere)
    elif change == "folder":
        path.mkdir()
    elif change == "unreadable":
        os.mkfifo(path)
    with pytest.raises(DamagedPackage):
        load_package(package.folder)


def test_a_file_that_is_not_listed_is_refused_and_not_named(package: ModelPackage) -> None:
    (package.folder / "Doe^John.dcm").write_bytes(b"")
    with pytest.raises(DamagedPackage, match=r"1 file\(s\)") as caught:
        load_package(package.folder)
    assert "Doe" not in str(caught.value)


def test_a_manifest_behind_a_link_is_refused(package: ModelPackage) -> None:
    manifest = package.folder / "package.json"
    manifest.rename(package.folder.parent / "package.json")
    manifest.symlink_to(package.folder.parent / "package.json")
    with pytest.raises(DamagedPackage):
        load_package(package.folder)


@pytest.mark.parametrize("version", [0, 2, "1", 1.5, True, None])
def test_another_format_is_refused_by_its_number(package: ModelPackage, version: Any) -> None:
    edit(package, format_version=version)
    with pytest.raises(IncompatiblePackage, match=r"reads 1"):
        load_package(package.folder)


def test_the_refusal_of_a_format_names_received_and_accepted(package: ModelPackage) -> None:
    edit(package, format_version=7)
    with pytest.raises(IncompatiblePackage, match=r"format version 7.*reads 1"):
        load_package(package.folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"status": "approved"}, "status"),
        ({"classes": []}, "classes"),
        ({"activation": "relu"}, "activation"),
        ({"activation": "softmax"}, "softmax needs two"),
        ({"status": "demonstration"}, "accepted_gates go together"),
        ({"status": "untrained", "calibrated": True}, "not calibrated"),
        ({"files": {"../model.keras": "0" * 64}}, "files"),
        ({"files": {"model.keras": "0" * 63}}, "files"),
        ({"score_tolerance": 0}, "score_tolerance"),
        ({"name": "a\nb"}, "name"),
        ({"provenance": {"training_data": "x", "architecture": "y", "created": "2026-01-02T03:04:05"}}, "created"),
        (
            {"provenance": {"training_data": "", "architecture": "y", "created": "2026-01-02T03:04:05Z"}},
            "training_data",
        ),
        ({"provenance": {"training_data": "x", "architecture": "", "created": "2026-01-02T03:04:05Z"}}, "architecture"),
        ({"operating_point": {"rule": "", "chosen_on": "validation"}}, "rule"),
        ({"operating_point": {"rule": "sensitivity of 0.9", "chosen_on": ""}}, "chosen_on"),
        ({"score_tolerance": 1.01}, "score_tolerance"),
        ({"recipe": DEFAULT_RECIPE.to_dict() | {"size": "224"}}, "size"),
        ({"recipe": DEFAULT_RECIPE.to_dict() | {"version": 99}}, "recipe"),
        ({"components": {"lung_mask": {"file": "unet.keras"}}}, "lung_mask"),
    ],
)
def test_a_manifest_that_this_version_does_not_serve_is_refused(
    package: ModelPackage, changes: dict[str, Any], named: str
) -> None:
    edit(package, **changes)
    with pytest.raises(IncompatiblePackage, match=named):
        load_package(package.folder)


@pytest.mark.parametrize(
    ("fields", "is_whole"),
    [
        ({"source": "manifest"}, True),
        ({"source": "manifest", "file": "unet.keras"}, False),
        ({"source": "model"}, False),
        ({"source": "model", "file": "unet.keras", "sha256": "0" * 64}, False),
    ],
)
def test_a_mask_of_a_model_has_its_parts_and_a_drawn_one_has_none(fields: dict[str, Any], is_whole: bool) -> None:
    with nullcontext() if is_whole else pytest.raises(ValidationError, match="required with source = model"):
        LungMaskComponent.model_validate(fields)


@pytest.mark.parametrize("key", ["value", "scheme_designator", "surprise"])
def test_a_code_has_exactly_its_parts(package: ModelPackage, key: str) -> None:
    document = to_document(package.manifest)
    code = document["classes"][0]["code"]
    if key in code:
        del code[key]
    else:
        code[key] = "x"
    edit(package, **document)
    with pytest.raises(IncompatiblePackage):
        load_package(package.folder)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, "0.5"])
def test_a_threshold_is_a_probability(package: ModelPackage, threshold: Any) -> None:
    document = to_document(package.manifest)
    document["classes"][0]["threshold"] = threshold
    edit(package, **document)
    with pytest.raises(IncompatiblePackage, match="threshold"):
        load_package(package.folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"format_version": 1, "format_version": 1}',
        b'{"a": NaN}',
        b"[" * 100000,
        b" " * (1 << 21),
    ],
    ids=["empty", "list", "cut", "not UTF-8", "twice", "NaN", "deep", "large"],
)
def test_what_is_no_manifest_is_damaged(package: ModelPackage, content: bytes) -> None:
    (package.folder / "package.json").write_bytes(content)
    with pytest.raises(DamagedPackage):
        load_package(package.folder)


def test_no_folder_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedPackage, match=r"package\.json can't be read"):
        load_package(tmp_path / "nothing")


def test_a_folder_that_exists_is_not_overwritten(package: ModelPackage) -> None:
    with pytest.raises(PackageError, match="exists"):
        write_package(package.folder, make_manifest(version="2.0"), CONTENTS)
    assert load_package(package.folder) == package


@pytest.mark.parametrize("name", ["../escaped", "a/b", "a b", ".hidden", ""])
def test_a_file_name_with_a_path_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError):
        write_package(tmp_path / "models" / "package", make_manifest(), CONTENTS | {name: b"x"})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="No such file"):
        write_package(tmp_path / "package", make_manifest(), CONTENTS | {"metrics.json": tmp_path / "absent"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", sorted(CONTENTS))
def test_graph_and_card_are_needed(tmp_path: Path, missing: str) -> None:
    with pytest.raises(PackageError, match=missing):
        write_package(tmp_path / "package", make_manifest(), {k: v for k, v in CONTENTS.items() if k != missing})


def test_further_files_are_listed_and_verified(tmp_path: Path) -> None:
    package = write_package(tmp_path / "package", make_manifest(), CONTENTS | {"metrics.json": b"{}"})
    assert "metrics.json" in package.manifest.files
    (package.folder / "metrics.json").write_bytes(b"[]")
    with pytest.raises(DamagedPackage, match=r"metrics\.json"):
        load_package(package.folder)


def test_every_change_gives_another_fingerprint(tmp_path: Path) -> None:
    demonstration = make_manifest(
        status=PackageStatus.DEMONSTRATION,
        accepted_gates=(AcceptedGate(name="auc", figure="0.61 < 0.70", reason="demo", accepted_at=NOW),),
    )
    variants = [
        (make_manifest(), CONTENTS),
        (make_manifest(), CONTENTS | {"model.keras": b"other weights"}),
        (make_manifest(), CONTENTS | {"MODEL_CARD.md": b"# other card"}),
        (make_manifest(recipe=PixelRecipe(size=320)), CONTENTS),
        (make_manifest(status=PackageStatus.UNTRAINED), CONTENTS),
        (make_manifest(operating_point=OperatingPoint(rule="sensitivity 0.9", chosen_on="validation")), CONTENTS),
        (demonstration, CONTENTS),
    ]
    fingerprints = [
        write_package(tmp_path / str(number), manifest, contents).fingerprint
        for number, (manifest, contents) in enumerate(variants)
    ]
    assert len(set(fingerprints)) == len(variants)


def test_the_fingerprint_does_not_depend_on_how_the_manifest_is_written(package: ModelPackage) -> None:
    path = package.folder / "package.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(document.items())), ensure_ascii=False))
    assert load_package(package.folder).fingerprint == package.fingerprint


def test_the_fingerprint_is_stable() -> None:
    # Results in people's archives carry it: another value for the same content must never come.
    assert fingerprint_of({"b": 1, "a": "\u00e9", "c": [0.25]}) == (
        # printf '%s' '{"a":"\\u00e9","b":1,"c":[0.25]}' | sha256sum
        "9af1b3f0e85f5bbb24d084e420714fc84cc84fcd4ba85623a07ad4b4873168fd"
    )


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,31}", fullmatch=True)
file_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True)
slugs = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
probabilities = st.floats(0, 1)
texts = st.text(min_size=1, max_size=40)
classes = st.builds(
    PackageClass,
    finding=slugs,
    code=st.builds(Code, value=texts, scheme_designator=texts, meaning=st.text(max_size=40)),
    threshold=st.none() | probabilities,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
manifests = st.builds(
    make_manifest,
    name=names,
    version=names,
    classes=st.lists(classes, min_size=2, max_size=4, unique_by=lambda each: each.finding).map(tuple),
    activation=st.sampled_from(["sigmoid", "softmax"]),
    calibrated=st.booleans(),
    operating_point=st.none()
    | st.builds(OperatingPoint, rule=texts, chosen_on=texts, prevalence=st.none() | probabilities),
    recipe=st.builds(PixelRecipe, size=st.integers(16, 512), fit=st.sampled_from(["pad", "stretch"])),
    score_tolerance=st.floats(1e-9, 1),
    evaluation=st.dictionaries(st.text(), json_values, max_size=3),
    provenance=st.builds(
        Provenance,
        training_data=texts,
        architecture=texts,
        created=st.datetimes(timezones=st.just(UTC)),
        seed=st.none() | st.integers(-(2**53), 2**53),
        software=st.dictionaries(texts, texts, max_size=3),
        parents=st.lists(texts, max_size=2).map(tuple),
    ),
    files=st.dictionaries(file_names, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), max_size=3),
)


@settings(max_examples=40, deadline=None)
@given(manifests)
def test_any_manifest_survives_the_file(manifest: PackageManifest) -> None:
    content = manifest.model_dump_json(indent=2).encode()
    parsed, fingerprint = parse_manifest(content)
    assert parsed == manifest
    assert fingerprint == fingerprint_of(to_document(manifest))


@settings(max_examples=40, deadline=None)
@given(manifests, st.data())
def test_any_changed_byte_is_refused_or_seen(manifest: PackageManifest, data: st.DataObject) -> None:
    content = bytearray(manifest.model_dump_json().encode())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    try:
        parsed, fingerprint = parse_manifest(bytes(content))
    except PackageError:
        return
    if parsed != manifest:
        assert fingerprint != fingerprint_of(to_document(manifest))


@given(st.binary(max_size=200))
def test_no_bytes_end_in_another_error(content: bytes) -> None:
    with pytest.raises(PackageError):
        parse_manifest(content)
