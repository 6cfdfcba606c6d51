"""``cxr audit forget``: remove a patient or study, and list other holders of the data."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr.counts import counted
from cxr.errors import StorageError
from db.cli.common import AsJson, now, open_audit, open_spool, settings_of
from db.cli.output import print_json, print_message, print_table

if TYPE_CHECKING:
    from db.disk import Spool
    from db.engine import Database
    from db.privacy.erase_copies import EraseResult
    from db.privacy.forget import ForgetRequest, Holdings


def forget(
    ctx: typer.Context,
    patient_id: Annotated[str | None, typer.Option(help="Patient ID.", metavar="ID")] = None,
    issuer: Annotated[
        str | None, typer.Option(help="Issuer of that ID, if the images have one.", metavar="NAME")
    ] = None,
    any_issuer: Annotated[bool, typer.Option("--any-issuer", help="Any issuer of that ID.")] = False,
    study: Annotated[str | None, typer.Option(help="One study instead of a patient.", metavar="UID")] = None,
    backups: Annotated[
        list[Path] | None, typer.Option(help="Further folder with backups to rewrite; repeatable.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what is stored, and other holders.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Skip the confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a patient's identifiers, images and reports, from the database, its copies and the spool.

    Reports stored at destinations are listed, to be removed there. The service may run.

    Example: cxr audit forget --patient-id 4711 --dry-run
    """
    from db.privacy.erase_copies import erase
    from db.privacy.forget import ForgetRequest, find

    if (patient_id is None) == (study is None):
        raise typer.BadParameter("name a patient or a study", param_hint="--patient-id, --study")
    request = ForgetRequest(patient_id=patient_id, issuer_of_patient_id=issuer, study_instance_uid=study)
    settings = settings_of(ctx)
    folders = [settings.backup_dir, *(backups or ())]
    with open_audit(settings) as database:
        spool = open_spool(settings)
        holdings = find(database, spool, request)
        _print_holdings(holdings, as_json=as_json, is_done=not dry_run)
        if dry_run:
            return
        _check_issuers(holdings, request, any_issuer=any_issuer)
        if not yes:
            typer.confirm("Remove it for good?", abort=True, err=True)
        _forget_all(database, spool, holdings)
        erased = erase(database, snapshot=settings.snapshot_path, folders=folders, request=request, now=now())
    _print_erased(erased, keep=settings.audit.backup_keep)
    if erased.left:
        raise typer.Exit(1)


def _check_issuers(holdings: Holdings, request: ForgetRequest, *, any_issuer: bool) -> None:
    if holdings.issuers > 1 and request.patient_id is not None and not any_issuer:
        raise StorageError(
            f"Images of this patient ID name {holdings.issuers} different issuers, or none: they may be different "
            "people. Add --issuer, or --any-issuer; nothing was removed."
        )


def _forget_all(database: Database, spool: Spool, holdings: Holdings) -> None:
    from db.privacy.forget import forget as forget_one

    for number in holdings.images:
        with database.begin() as session:
            forget_one(session, spool, number, now=now())
    for path in holdings.quarantined:
        path.unlink(missing_ok=True)


def _print_holdings(holdings: Holdings, *, as_json: bool, is_done: bool) -> None:
    """Print what is stored, before anything is removed."""
    if as_json:
        elsewhere = [asdict(each) for each in holdings.delivered_objects]
        counts = {
            "images": len(holdings.images),
            "reports": len(holdings.reports),
            "quarantined": len(holdings.quarantined),
        }
        print_json(counts | {"peers": list(holdings.peers), "elsewhere": elsewhere, "dry_run": not is_done})
        return
    typer.echo(
        f"{counted(len(holdings.images), 'image')}, {counted(len(holdings.reports), 'report')}, "
        f"{counted(len(holdings.quarantined), 'file')} in the quarantine."
    )
    if holdings.peers:
        typer.echo(f"Sent by {', '.join(holdings.peers)}, which may still store the images.")
    if holdings.delivered_objects:
        columns = list(asdict(holdings.delivered_objects[0]))
        rows = [list(asdict(each).values()) for each in holdings.delivered_objects]
        print_table(columns, rows, title="Reports stored at destinations: remove them there")


def _print_erased(erased: EraseResult, *, keep: int) -> None:
    print_message(f"Removed; the database was rebuilt; rewritten: {counted(erased.backups, 'backup')}.")
    if erased.left:
        print_message(
            f"Not rewritten: {counted(len(erased.left), 'copy', 'copies')} (of another version, damaged, or being "
            f"written). Run this again in an hour. Nightly backups go after {keep} nights; remove older ones by hand:"
        )
    for path in erased.left:
        print_message(f"  {path.name}")
