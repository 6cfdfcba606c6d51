"""Where received objects go, opened at the start: the audit database and the spool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from config.logs import get_logger
from config.settings import Settings
from cxr.errors import SettingsError
from db.engine import Database, open_database
from db.identifiers import declare, load_identifiers
from db.retention import sweep
from db.spool import Spool

# A worker beside us may have written a report a moment ago whose row is not committed yet.
_SWEEP_MARGIN = timedelta(minutes=1)

log = get_logger(__name__)


def open_storage(settings: Settings, *, clear_up: bool) -> tuple[Database, Spool]:
    """Open the database and the spool; both are made where they are missing.

    Parameters
    ----------
    settings
        All settings.
    clear_up
        Quarantine files without a row, and remove what cut transfers left; only while nothing receives
        into this spool.

    Raises
    ------
    SettingsError
        If data_dir can't be written.
    StorageError
        If the database is another version's, or the spool is not the one that was here before.
    """
    started_at = datetime.now(UTC)
    with _startable():
        identifiers = load_identifiers(
            settings.audit.identifiers, settings.pseudonym_key_path, create=settings.audit.identifiers != "full"
        )
        database = open_database(
            settings.database_path,
            settings.audit_key_path,
            create=True,
            identifiers=identifiers,
            traces=settings.database_traces,
        )
        spool = Spool(settings.spool_dir, min_free_mib=settings.listener.min_free_mib)
        spool.prepare()
    with database.begin() as session:
        declare(session, identifiers, now=started_at)
    if clear_up:
        swept = sweep(database, spool, older_than=started_at - _SWEEP_MARGIN, now=started_at)
        if swept.quarantined:
            log.warning("orphans_quarantined", count=swept.quarantined)
    return database, spool


@contextmanager
def _startable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(
            f"data_dir can't be used ({error.strerror}); accepted is a folder that the service's account may write: "
            "set data_dir, or give it the right."
        ) from error
