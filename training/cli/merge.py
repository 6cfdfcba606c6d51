"""``cxr train merge``: one manifest of several collections."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.audit.shared_films import SharedFilms
    from training.cases.merge import Collection, Merged


def merge(
    manifests: Annotated[
        list[str],
        typer.Argument(
            help="Manifests of `cxr train index`, two or more. NAME is put before patient IDs that name no collection "
            "(default: the file's name); manifests of one NAME share their patients. Of a film that several hold, the "
            "first keeps it.",
            metavar="[NAME=]MANIFEST",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.", metavar="FILE")],
    files: Annotated[
        bool,
        typer.Option("--files/--no-files", help="Read every file, and leave out films that were in an earlier one."),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge manifests of several collections into one: columns by name, a patient and a film once.

    Example: cxr train merge nih.csv rsna.csv hospital=2020.csv hospital=2021.csv -o all.csv
    """
    from training.adapters.index_summary import rejections_path, write_rejections
    from training.adapters.reading.result import Rejection
    from training.cases import lines_of, relative_paths, write_manifest
    from training.cases.merge import merge as merge_collections
    from training.cases.merge import without_unfit_sides

    if len(manifests) < 2:
        raise typer.BadParameter("a merge needs two manifests or more", param_hint="MANIFEST")
    collections = [_read(text) for text in manifests]
    everything = merge_collections(collections)
    shared = _without_copies(everything) if files else None
    merged = everything if shared is None else shared.merged
    cases = without_unfit_sides(merged.cases)
    write_manifest(relative_paths(cases, output.parent), output)
    places = [(each.file.name, line) for each in collections for line in lines_of(each.file)]
    left_out = [] if shared is None else [places[int(row)] for row in shared.copies.index]
    copies = [Rejection(file, line, "other_collection") for file, line in left_out]
    write_rejections(copies, rejections_path(output))
    rows = _rows(collections, everything, merged)
    sentences = _sentences(everything, shared)
    if (cases["split"] == "").all():
        sentences.append("The cases have no sides: next, cxr train split.")
    if as_json:
        typer.echo(json.dumps({"manifest": str(output), "collections": rows, "notes": sentences}))
        return
    _print(output, rows)
    for sentence in sentences:
        typer.echo(sentence)


def _read(text: str) -> Collection:
    from training.cases import read_manifest, resolve_paths
    from training.cases.merge import COLLECTION_NAME, Collection

    name, equals, file = text.partition("=")
    if not equals or not COLLECTION_NAME.fullmatch(name):
        name, file = "", text  # a path may have an equals sign
    path = Path(file)
    slug = re.sub(r"[^a-z0-9]+", "-", path.stem.casefold()).strip("-")
    name = name or (slug if COLLECTION_NAME.fullmatch(slug) else f"m-{slug}")
    return Collection(name, path, resolve_paths(read_manifest(path), path.absolute().parent))


def _without_copies(merged: Merged) -> SharedFilms:
    from config.native_logs import quiet_tensorflow

    quiet_tensorflow("auto")
    from training.audit.near_duplicates import hash_files
    from training.audit.shared_films import keep_one_of_each
    from training.cli.progress import show_progress

    with show_progress() as progress:
        return keep_one_of_each(merged, hash_files([Path(path) for path in merged.cases["path"]], progress=progress))


def _rows(collections: Sequence[Collection], everything: Merged, merged: Merged) -> list[dict[str, Any]]:
    """Count what came from where: one row for each manifest."""
    rows = []
    for number, each in enumerate(collections):
        cases = merged.cases[(merged.collection == number).to_numpy()]
        patients = cases.loc[cases["patient_id"] != "", "patient_id"].nunique()
        labels = {str(label): int(count) for label, count in cases["label"].value_counts().items()}
        left_out = int((everything.collection == number).sum()) - len(cases)
        rows.append(
            {"manifest": each.file.name, "name": each.name, "images": len(cases), "patients": int(patients)}
            | {"image_wise": int((cases["image_wise"] == "yes").sum()), "copies_left_out": left_out, "labels": labels}
        )
    return rows


def _sentences(everything: Merged, shared: SharedFilms | None) -> list[str]:
    sentences = []
    if shared is None:
        sentences.append("Copies of films were not looked for (--no-files).")
    else:
        sentences.append(
            f"{len(shared.copies)} films were in an earlier manifest and are left out ({shared.exact} with the same "
            f"bytes, {shared.other_label} with another label there); {shared.joined_patients} patients were joined "
            "with another by such films."
        )
    if shared is not None and shared.unreadable:
        sentences.append(f"{shared.unreadable} files can't be read or decoded: copies of them were not looked for.")
    if everything.bare_in_several:
        sentences.append(
            f"{everything.bare_in_several} patient IDs are the same in manifests of different names, and count as "
            "different patients. If they are the same people, give those manifests one name: NAME=A.csv NAME=B.csv."
        )
    return sentences


def _print(output: Path, rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    labels = list(dict.fromkeys(label for row in rows for label in row["labels"]))
    table = Table(title=f"{output.name}: {sum(row['images'] for row in rows)} images")
    table.add_column("")
    for row in rows:
        table.add_column(row["manifest"], justify="right", overflow="fold")
    for name, words in (
        ("images", "images"),
        ("patients", "known patients"),
        ("image_wise", "without a certain patient"),
        ("copies_left_out", "copies left out"),
    ):
        table.add_row(words, *(str(row[name]) for row in rows))
    table.add_section()
    for label in labels:
        table.add_row(label or "(no label)", *(str(row["labels"].get(label, 0)) for row in rows))
    Console().print(table)
