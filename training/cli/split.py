"""``cxr train split``: split a manifest's cases into train, validation and test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    import pandas as pd


def split(
    manifest: Annotated[Path, typer.Argument(help="A manifest of `cxr train index`.", metavar="MANIFEST")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: the manifest itself.", metavar="FILE")
    ] = None,
    by: Annotated[
        Literal["patient", "temporal", "site", "image"],
        typer.Option(
            "--by", help="At random by patient; newest months as test; one site as test; by image (not for claims)."
        ),
    ] = "patient",
    fractions: Annotated[
        str, typer.Option(help="Shares of train, validation and test.", metavar="TRAIN,VAL,TEST")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split.")] = 0,
    stratify: Annotated[
        list[str] | None, typer.Option(help="Column to stratify by; repeatable. Default: label.", metavar="COLUMN")
    ] = None,
    site: Annotated[str | None, typer.Option(help="With --by site: the test's site.")] = None,
    every_site: Annotated[
        bool, typer.Option("--every-site", help="With --by site: one manifest for each site as the test.")
    ] = False,
    test_from: Annotated[
        str | None, typer.Option(help="With --by temporal: first month of the test.", metavar="YYYY-MM")
    ] = None,
    train_only: Annotated[
        list[str] | None, typer.Option(help="Source whose patients are in train only; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Split a manifest's cases; except with --by image, no patient is on two sides.

    Example: cxr train split manifest.csv --by temporal --fractions 0.7,0.1,0.2
    """
    from training.cases import read_manifest, splits

    cases = read_manifest(manifest)
    common: dict[str, Any] = {"fractions": _fractions(fractions), "seed": seed}
    common["stratify"] = tuple(stratify) if stratify else splits.DEFAULT_STRATIFY
    target = output or manifest
    if every_site:
        for name, result in splits.leave_one_site_out(cases, **common):
            _write(result, target.with_name(f"{target.stem}.{_slug(name)}{target.suffix}"), manifest, as_json=as_json)
        return
    result = splits.split(
        cases, strategy=by, test_site=site, test_from=test_from, train_only=tuple(train_only or ()), **common
    )
    is_named = site is not None or test_from is not None or bool(train_only) or by == "site"
    splits.refuse_far_sides(result, common["fractions"], test_is_named=is_named)
    _write(result, target, manifest, as_json=as_json)


def _fractions(text: str) -> dict[str, float]:
    try:
        train, val, test = (float(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter("accepted are three numbers, e.g. 0.8,0.1,0.1", param_hint="--fractions") from error
    return {"train": train, "val": val, "test": test}


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-") or "site"


def _write(cases: pd.DataFrame, target: Path, manifest: Path, *, as_json: bool) -> None:
    from training.cases import relative_paths, resolve_paths, summarise, warnings, write_manifest

    write_manifest(relative_paths(resolve_paths(cases, manifest.parent), target.parent), target)
    rows, sentences = summarise(cases), warnings(cases)
    if as_json:
        typer.echo(json.dumps({"manifest": str(target), "sides": rows, "warnings": list(sentences)}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=target.name)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)
    for sentence in sentences:
        typer.echo(f"warning: {sentence}", err=True)
