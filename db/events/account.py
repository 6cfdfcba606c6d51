"""Under which account a person acts: recorded with what he does to jobs, deliveries and images."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from db.events.log import ACCOUNT, is_account_name
from db.schema.records import FactValue

_LOGIN = Path("/proc/self/loginuid")
_NONE = 2**32 - 1  # of a process that no login started


def account_name(number: int | None = None) -> str:
    """Return the name of an account, by default of the one that this process runs under."""
    number = os.getuid() if number is None else number
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        # A container may run under a number that has no name.
        return f"uid_{number}"


def account_facts(login: Path = _LOGIN) -> Mapping[str, FactValue]:
    """Return who acts, for an event: account and number of this process, and of the login that it began with.

    The login's number stays the same through ``sudo`` and ``su`` (proc(5), ``loginuid``).
    """
    found: dict[str, FactValue] = {"uid": os.getuid()}
    name = account_name()
    if is_account_name(name):  # a directory's may hold anything
        found[ACCOUNT] = name
    try:
        logged_in = int(login.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return found
    return found if logged_in == _NONE else found | {"login_uid": logged_in}
