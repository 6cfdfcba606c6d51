"""``cxr audit forget``: remove what is kept of one patient or study, and say who else has it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    patient_id: Annotated[str | None, typer.Option(help="Whom: the patient's ID.", metavar="ID")] = None,
    issuer: Annotated[
        str | None, typer.Option(help="Who issued that ID, where the images say so.", metavar="NAME")
    ] = None,
    any_issuer: Annotated[bool, typer.Option("--any-issuer", help="Whoever issued that ID.")] = False,
    study: Annotated[str | None, typer.Option(help="Instead: one study.", metavar="UID")] = None,
    backups: Annotated[
        list[Path] | None, typer.Option(help="A further folder with backups to rewrite; may be given again.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is kept, and who else has it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a patient's identifiers, images and reports, from the database, its copies and the spool.

    What destinations have of ours is listed, to be removed there. The service may run.

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
        found = find(database, spool, request)
        _say_found(found, as_json=as_json, is_done=not dry_run)
        if dry_run:
            return
        _check_issuers(found, request, any_issuer=any_issuer)
        if not yes:
            typer.confirm("Remove it for good?", abort=True, err=True)
        _forget_all(database, spool, found)
        erased = erase(database, snapshot=settings.snapshot_path, folders=folders, request=request, now=now())
    _say_erased(erased, keep=settings.audit.backup_keep)
    if erased.left:
        raise typer.Exit(1)


def _check_issuers(found: Holdings, request: ForgetRequest, *, any_issuer: bool) -> None:
    if found.issuers > 1 and request.patient_id is not None and not any_issuer:
        raise StorageError(
            f"Images of this patient ID name {found.issuers} different issuers, or none: they may be different people. "
            "Add --issuer, or --any-issuer; nothing was removed."
        )


def _forget_all(database: Database, spool: Spool, found: Holdings) -> None:
    from db.privacy.forget import forget as forget_one

    for number in found.images:
        with database.begin() as session:
            forget_one(session, spool, number, now=now())
    for path in found.quarantined:
        path.unlink(missing_ok=True)


def _say_found(found: Holdings, *, as_json: bool, is_done: bool) -> None:
    """Say what is kept before anything is removed: afterwards nobody could."""
    if as_json:
        elsewhere = [asdict(each) for each in found.delivered_objects]
        counts = {"images": len(found.images), "reports": len(found.reports), "quarantined": len(found.quarantined)}
        print_json(counts | {"peers": list(found.peers), "elsewhere": elsewhere, "dry_run": not is_done})
        return
    typer.echo(
        f"{len(found.images)} images, {len(found.reports)} reports, {len(found.quarantined)} files in the quarantine."
    )
    if found.peers:
        typer.echo(f"Sent by {', '.join(found.peers)}, which may have the images still.")
    if found.delivered_objects:
        columns = list(asdict(found.delivered_objects[0]))
        rows = [list(asdict(each).values()) for each in found.delivered_objects]
        print_table(columns, rows, title="Objects of ours that destinations have: remove them there")


def _say_erased(erased: EraseResult, *, keep: int) -> None:
    print_message(f"Removed; the database was rebuilt, {erased.backups} backups were rewritten.")
    if erased.left:
        print_message(
            f"{len(erased.left)} copies could not be rewritten (of another version, damaged, or being made just now): "
            f"run this again in an hour. Nightly backups go after {keep} nights; remove older ones by hand:"
        )
    for path in erased.left:
        print_message(f"  {path.name}")
