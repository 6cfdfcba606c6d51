"""Logging: structured records on standard error, without patient data.

pydicom, pynetdicom and highdicom put patient values into warnings, log texts and exceptions, so care in our own
calls is not enough. A record contains only:

* for our own records, a constant event name and the fields of the allow-list below;
* for an exception, its type and location, and the message only of a ``CxrError``;
* for records and warnings of libraries, the origin: logger, level, location in the code.

Rows are identified by our integers (``job=7 image=12``), never by a UID, accession number or path.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import MutableMapping
from pathlib import PurePath
from types import TracebackType
from typing import Any, TextIO, cast

import structlog
from structlog.stdlib import ProcessorFormatter

from config.settings import LogSettings
from cxr.errors import CxrError

FIELDS = frozenset(
    {
        # Rows, by our integers
        *("delivery", "deliveries", "event_id", "image", "images", "job", "jobs", "report", "reports"),
        # Our codes, and numbers of a standard
        *("attempt", "attempts", "category", "code", "kind", "reason", "signal", "sop_class", "state", "status"),
        *("transfer_syntax", "verified_by", "view"),
        # Parts of this installation, as named by settings and model package
        *(
            "address",
            "ae_title",
            "bind",
            "destination",
            "device",
            "fingerprint",
            "format",
            "model",
            "pid",
            "port",
            "role",
        ),
        *("setting", "timer", "tls", "tls_port", "version", "worker"),
        # Figures
        *(
            "batch",
            "bytes",
            "count",
            "expired",
            "faults",
            "free_mib",
            "held",
            "limit",
            "minimum_mib",
            "open",
            "removed",
        ),
        *("item", "offset"),  # of a PDU
        *("rows", "columns", "seconds", "size", "size_bytes", "total", "wait_s", "holds", "handshakes", "refused"),
        # Of a connection that was refused
        *("called_ae_title", "calling_ae_title"),
    }
)
"""Allow-list of the fields of our records; another field is removed, and counted in ``dropped``."""

_TITLES = frozenset({"called_ae_title", "calling_ae_title"})  # as a peer sent them: configuration, not patients
_LONGEST_TITLE = 16  # characters; PS3.8 Section 9.3.2

PACKAGES = ("app", "config", "cxr", "db", "inference", "listener", "training")

_PDU_READERS = ("_validators", "acse", "dul", "fsm", "pdu", "pdu_items", "pdu_primitives", "presentation", "utils")
"""Modules of pynetdicom that log each invalid item of a peer's PDU, up to thousands for one PDU."""

_EVENT = re.compile(r"[a-z][a-z0-9_.]{0,63}")
_TEXT = re.compile(r"[\w.:+@\[\]-]{0,80}", re.ASCII)  # no space, no caret, no slash: no name, sentence or path
_UID = re.compile(r"\d+(\.\d+){4,}")
_WITHHELD = "(withheld)"

_Event = MutableMapping[str, Any]


class _Handler(logging.StreamHandler[TextIO]):
    """Our handler of the root logger; a separate class, so that ``configure`` can replace it."""


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of one module; it applies the allow-list also before ``configure``.

    Parameters
    ----------
    name
        ``__name__`` of the module.

    Examples
    --------
    >>> log = get_logger(__name__)
    >>> log.info("reported", job=7, image=12)
    """
    logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            _keep_allowed,
            _name_exception,
            ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return cast("structlog.stdlib.BoundLogger", logger)


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Write all records of this process to standard error, by the rules of this module.

    Called once by each command; another call replaces the configuration. Uncaught exceptions and Python
    warnings become records, too.

    Parameters
    ----------
    settings
        Level and format. Records of libraries start at warning, whatever the level.
    stream
        Output instead of standard error.
    """
    target = sys.stderr if stream is None else stream
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
    handler = _Handler(target)
    handler.setFormatter(_formatter(settings, target))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(settings.level.upper())
    for module in _PDU_READERS:
        logging.getLogger(f"pynetdicom.{module}").setLevel(logging.CRITICAL)
    logging.getLogger("pynetdicom.transport").addFilter(_has_exception)
    # Otherwise a handler that fails prints the record with its arguments.
    logging.raiseExceptions = False
    warnings.showwarning = _show_warning
    sys.excepthook = _report_uncaught
    threading.excepthook = _report_uncaught_in_thread


def _has_exception(record: logging.LogRecord) -> bool:
    """Keep records with an exception only: two others per call to a peer that is down repeat our own record."""
    return record.exc_info is not None


def _formatter(settings: LogSettings, target: TextIO) -> ProcessorFormatter:
    on_terminal = target.isatty()
    as_json = settings.format == "json" or (settings.format == "auto" and not on_terminal)
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=on_terminal)
    return ProcessorFormatter(
        foreign_pre_chain=[_reduce_to_origin],
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_logger_name,
            ProcessorFormatter.remove_processors_meta,
            renderer,
        ],
    )


def _keep_allowed(_logger: object, _method: str, event: _Event) -> _Event:
    """Remove fields that are not on the allow-list; a caller's mistake must cause no leak and no crash."""
    record: _Event = {
        "event": event["event"] if _is_event_name(event.get("event")) else _WITHHELD,
        "level": event["level"],
    } | ({"exc_info": event["exc_info"]} if "exc_info" in event else {})
    dropped = 0
    for name, value in event.items():
        if name in FIELDS:
            record[name] = _printable(value) if name in _TITLES else _plain(value)
        elif name not in record:
            dropped += 1
    if dropped:
        record["dropped"] = dropped
    return record


def _is_event_name(value: object) -> bool:
    return isinstance(value, str) and _EVENT.fullmatch(value) is not None


def _plain(value: object) -> object:
    """Return numbers and short codes; withhold values that could be a name, path or identifier."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value) if _TEXT.fullmatch(value) and not _UID.fullmatch(value) else _WITHHELD
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _WITHHELD


def _printable(title: object) -> str:
    r"""Escape what is not printable ASCII in an AE title: PACS, a tab and a backslash become PACS\x09\x5c."""
    is_plain = [(c, c.isascii() and c.isprintable() and c != "\\") for c in str(title)[:_LONGEST_TITLE]]
    return "".join(c if plain else f"\\x{ord(c) % 256:02x}" for c, plain in is_plain)


def _name_exception(_logger: object, _method: str, event: _Event) -> _Event:
    """Replace an exception by its type and location, so that no renderer prints its message."""
    exc_info = event.pop("exc_info", None)
    if not exc_info:
        return event
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    else:
        error = exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]
    if error is not None:
        event.update(describe_exception(error))
    return event


def describe_exception(error: BaseException) -> dict[str, str]:
    """Return type and location of an exception; the message only if it is ours.

    Parameters
    ----------
    error
        Any exception, with its traceback.

    Returns
    -------
    dict[str, str]
        ``error``, the type; ``where``, the innermost location, then the innermost location in our own code;
        ``cause``, the type of its cause; for a ``CxrError`` also ``message``.
    """
    description = {"error": type(error).__name__, "where": _location(error.__traceback__)}
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        description["cause"] = type(cause).__name__
    if isinstance(error, CxrError):
        description["message"] = str(error)
    return description


def _location(trace: TracebackType | None) -> str:
    frames = [(_short(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(trace)]
    if not frames:
        return "unknown"
    ours = [frame for frame in frames if frame[0].split("/")[0] in PACKAGES]
    locations = dict.fromkeys([frames[-1], *ours[-1:]])
    return " < ".join(f"{file}:{line}" for file, line in locations)


def _short(filename: str) -> str:
    """Return the last two parts of a module's path, which identify it and show nothing of the machine."""
    return "/".join(PurePath(filename).parts[-2:])


def _reduce_to_origin(_logger: object, _method: str, event: _Event) -> _Event:
    """Replace a record of a library by its origin."""
    record: logging.LogRecord = event["_record"]
    reduced: _Event = {
        "event": "third_party",
        "level": record.levelname.lower(),
        "origin": f"{_short(record.pathname)}:{record.lineno}",
        "_record": record,
        "_from_structlog": False,
    }
    # The formatter removes the text of the traceback (``keep_exc_info`` is False).
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        reduced.update(error=type(error).__name__, where=_location(error.__traceback__))
    return reduced


def _add_logger_name(_logger: object, _method: str, event: _Event) -> _Event:
    event["logger"] = event["_record"].name
    return event


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Replace ``warnings.showwarning``: log category and location, not the text."""
    logging.getLogger("warnings").handle(
        logging.LogRecord("warnings." + category.__name__, logging.WARNING, filename, lineno, "", None, None)
    )


def _report_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    get_logger("app").critical("uncaught", exc_info=(kind, error, trace))


def _report_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        get_logger("app").critical("uncaught_in_thread", exc_info=arguments.exc_value)
