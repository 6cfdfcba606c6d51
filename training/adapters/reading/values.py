"""Parse single values of data sets: sex, age, date, projection. A value of another form is unknown."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta

from training.cases import MAX_AGE

_AGE = re.compile(r"(\d{1,3}(?:[.,]\d+)?)\s*([YMWD]?)", re.IGNORECASE)
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.18, "D": 365.25}
_DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y%m%d",
    "%d.%m.%Y",
    "%d.%m.%y",
    "%B %d, %Y",
    "%b %d, %Y",
    "%d %B %Y",
    "%d %b %Y",
    "%Y/%m/%d",
)
_FIRST_YEAR = 1902
_SERIAL = re.compile(r"[2-6]\d{4}(\.\d+)?")  # of the years 1954 to 2091
_SERIAL_0 = date(1899, 12, 30)  # day 0 of spreadsheets
_VIEWS = {
    "pa": "PA", "posteroanterior": "PA",
    "ap": "AP", "anteroposterior": "AP", "ap erect": "AP",
    "ap supine": "AP_supine", "aps": "AP_supine", "ap_supine": "AP_supine", "supine": "AP_supine",
    "l": "L", "lat": "L", "lateral": "L", "ll": "L", "rl": "L", "rlat": "L", "llat": "L",
    "": "unknown", "unk": "unknown", "unknown": "unknown", "frontal": "unknown",
}  # fmt: skip


def sex_of(text: str) -> str:
    """Return M, F, or an empty text."""
    return {"m": "M", "male": "M", "f": "F", "female": "F", "h": "M", "w": "F"}.get(text.strip().casefold(), "")


def age_of(text: str) -> float | None:
    """Return the age in years of a number or a DICOM age string (PS3.5 Section 6.2, AS); None for another text."""
    matched = _AGE.fullmatch(text.strip())
    if matched is None:
        return None
    years = float(matched[1].replace(",", ".")) / _PER_YEAR[matched[2].upper()]
    return round(years, 2) if years <= MAX_AGE else None


def date_of(text: str, *, form: str = "") -> date | None:
    """Return the day of a date or of a date and time; None if it is neither, or ambiguous.

    Parameters
    ----------
    text
        ISO 8601, DICOM's YYYYMMDD, 31.12.2020, 31.12.20, "December 31, 2020", or a spreadsheet's number of days
        (44196). Days before 1902 are none: programs that remove identities write 19000101 and 19010101.
    form
        Another form, as a format of ``strptime``; 03/04/2020 is ambiguous without one.
    """
    day = _day(text.strip(), form)
    return day if day is not None and day.year >= _FIRST_YEAR else None


def _day(value: str, form: str) -> date | None:
    for candidate in (form,) if form else _DATE_FORMATS:
        try:
            return datetime.strptime(value, candidate).date()  # noqa: DTZ007 (a day, without a zone)
        except ValueError:
            continue
    if form:
        return None
    if _SERIAL.fullmatch(value):
        return _SERIAL_0 + timedelta(days=int(float(value)))
    try:
        return datetime.fromisoformat(value).date()
    except ValueError:
        return None


def iso(day: date | None) -> str:
    """Return a date in ISO 8601, as in a manifest; empty for None."""
    return "" if day is None else day.isoformat()


def view_of(text: str) -> str | None:
    """Return the manifest's word for a projection; None if it is none of a chest radiograph (CT planes)."""
    return _VIEWS.get(text.strip().casefold())
