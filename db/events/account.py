"""Account of an operator, recorded with actions on jobs, deliveries and images."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from db.events.log import ACCOUNT, is_account_name
from db.schema.records import FactValue

_LOGIN = Path("/proc/self/loginuid")
_NO_LOGIN = 2**32 - 1  # loginuid of a process without a login session


def account_name(number: int | None = None) -> str:
    """Return the name of an account, by default of the account of this process."""
    number = os.getuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        # A container may run under an unnamed uid.
        return f"uid_{number}"


def account_facts(login: Path = _LOGIN) -> Mapping[str, FactValue]:
    """Return account and uid of this process, and the uid of its login session, as facts of an event.

    The uid of the login session stays the same through ``sudo`` and ``su`` (proc(5), ``loginuid``).
    """
    facts: dict[str, FactValue] = {"uid": os.getuid()}
    name = account_name()
    if is_account_name(name):  # names of a directory service may have any characters
        facts[ACCOUNT] = name
    try:
        login_uid = int(login.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return facts
    return facts if login_uid == _NO_LOGIN else facts | {"login_uid": login_uid}
