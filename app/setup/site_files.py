"""Text of the files of a site: settings, Orthanc's auto-route, systemd units."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.setup.answers import Answers, Results, Sender
from app.setup.templates import UNITS, template

SETTINGS: Final = "cxr.toml"

_DICOM_ADDRESS: Final = re.compile(r"(?P<title>[^@]+)@(?P<host>.+):(?P<port>\d+)")


def site_files(answers: Answers, folder: Path) -> Mapping[str, str]:
    """Return the text of every file.

    Parameters
    ----------
    answers
        The four answers.
    folder
        Target folder; absolute.

    Returns
    -------
    Mapping[str, str]
        Text by path relative to ``folder``.
    """
    units = {f"systemd/{name}": _unit(name, answers, folder) for name in UNITS}
    return {
        SETTINGS: settings_text(answers),
        "orthanc/autoroute.lua": _autoroute(answers),
        "orthanc/orthanc.json": _orthanc(answers, folder),
        **units,
    }


def settings_text(answers: Answers) -> str:
    """Return the settings file: the answers, each with a comment."""
    lines = [
        "# Settings of cxr-listener, written by `cxr init`. RESEARCH USE ONLY - NOT FOR CLINICAL USE.",
        "# `cxr config example` lists every other setting with its default; `cxr config check` checks this file.",
        "",
        "# Received images, reports, models and the audit database. Local disk, not a network mount.",
        f"data_dir = {_quoted(str(answers.data_dir))}",
        "",
        "[listener]",
        "# The AE title that senders call.",
        f"ae_title = {_quoted(answers.ae_title)}",
        *_bind(answers.sender),
        "port = 11112",
        "",
        *_peer(answers.sender),
        "",
        *_destination(answers.results, answers.sender),
    ]
    return "\n".join(lines) + "\n"


def _bind(sender: Sender | None) -> list[str]:
    if sender is None or sender.is_local:
        return [
            "# Only this machine can connect; 0.0.0.0 opens the port to the network and needs [[peers]].",
            'bind = "127.0.0.1"',
        ]
    return ["# Every interface of this machine; only the [[peers]] below are let in.", 'bind = "0.0.0.0"']


def _peer(sender: Sender | None) -> list[str]:
    if sender is None:
        return [
            "# Without an entry anyone on this machine may send. One entry for each sender:",
            "# [[peers]]",
            '# ae_title = "PACS"',
            '# network = "192.168.1.20/32"',
        ]
    return [
        "# Who may send: calling AE title and network; one entry for each sender.",
        "[[peers]]",
        f"ae_title = {_quoted(sender.ae_title)}",
        f"network = {_quoted(sender.network)}",
    ]


def _destination(results: Results | None, sender: Sender | None) -> list[str]:
    if results is None:
        return [
            "# Without a destination reports stay in the data folder.",
            "# [[destinations]]",
            '# name = "pacs"',
            '# kind = "dicom"                      # or "stow", "folder"',
            '# address = "PACS@192.168.1.20:104"',
            '# from_peers = ["PACS"]               # results of images that these AE titles sent',
        ]
    lines = [
        "# Where reports go.",
        "[[destinations]]",
        f"name = {_quoted(results.name)}",
        f"kind = {_quoted(results.kind)}",
        f"address = {_quoted(results.address)}",
    ]
    if sender is not None:
        lines += ["# Results of images that these AE titles sent.", f"from_peers = [{_quoted(sender.ae_title)}]"]
    return lines


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a TOML basic string has JSON's escapes


def _autoroute(answers: Answers) -> str:
    text = template("orthanc/autoroute.lua").read_text(encoding="utf-8")
    return text.replace("title CXR", f"title {answers.ae_title}").replace("'CXR'", f"'{answers.ae_title}'")


def _orthanc(answers: Answers, folder: Path) -> str:
    sender, results = answers.sender, answers.results
    address = _DICOM_ADDRESS.fullmatch(results.address) if results is not None and results.kind == "dicom" else None
    is_same = address is not None and (sender is None or address["title"].strip() == sender.ae_title)
    content = {
        "DicomAet": sender.ae_title if sender else (address["title"].strip() if address else "ORTHANC"),
        "DicomPort": int(address["port"]) if address and is_same else 4242,
        "HttpPort": 8042,
        "StorageDirectory": "OrthancStorage",
        "IndexDirectory": "OrthancStorage",
        "LuaScripts": [str(folder / "orthanc" / "autoroute.lua")],
        "DicomModalities": {"cxr": [answers.ae_title, _listener_host(sender), 11112]},
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _listener_host(sender: Sender | None) -> str:
    return "127.0.0.1" if sender is None or sender.is_local else os.uname().nodename


def _unit(name: str, answers: Answers, folder: Path) -> str:
    """Adapt a systemd unit to this installation: command, settings file, account, writable folders."""
    command = Path(sys.executable).parent / "cxr"
    data, keys = answers.data_dir, key_folder(answers)
    user = "cxr" if os.geteuid() == 0 else getpass.getuser()
    text = template(f"systemd/{name}").read_text(encoding="utf-8")
    text = text.replace("/opt/cxr/bin/cxr", _escaped(command)).replace("/etc/cxr/cxr.toml", _escaped(folder / SETTINGS))
    text = re.sub(r"^User=.*$", f"User={user}", text, flags=re.MULTILINE)
    text = re.sub(r"^Group=.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^StateDirectory=.*\nStateDirectoryMode=.*\n", "", text, flags=re.MULTILINE)
    # systemd reads one path up to the end of the line, spaces included.
    text = text.replace("WorkingDirectory=/var/lib/cxr", f"WorkingDirectory={str(data).replace('%', '%%')}")
    if any(_is_in_a_home(path) for path in (command, folder, data)):
        text = text.replace("ProtectHome=yes", "ProtectHome=read-only")
    return text.replace(
        "ProtectSystem=strict", f"ProtectSystem=strict\nReadWritePaths={_escaped(data)} {_escaped(keys)}"
    )


def key_folder(answers: Answers) -> Path:
    """Return the default folder of the audit key."""
    return answers.data_dir.parent / f"{answers.data_dir.name}.keys"


def _is_in_a_home(path: Path) -> bool:
    return path.is_relative_to("/home") or path.is_relative_to("/root") or path.is_relative_to("/run/user")


def _escaped(path: Path) -> str:
    """Return a path in the syntax of systemd units: percent signs doubled, spaces escaped."""
    return str(path).replace("%", "%%").replace(" ", r"\x20")
