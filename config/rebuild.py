"""The settings of the scheduled rebuild."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, model_validator

from config.sections import Section

_BOUNDS: Final = ((0, 59), (0, 23), (1, 31), (1, 12))
_PART: Final = re.compile(r"(?:\*|(\d+)(?:-(\d+))?)(?:/([1-9]\d*))?")
_DAYS: Final = re.compile(r"(?:\*|(?:mon|tue|wed|thu|fri|sat|sun)(?:-(?:mon|tue|wed|thu|fri|sat|sun))?)")


def _cron(value: str) -> str:
    """Check a cron expression; days of the week by name, because programs differ over what their numbers mean."""
    *numbers, days = value.lower().split() or [""]
    if len(numbers) != len(_BOUNDS):
        raise ValueError("a cron expression has five fields: minute, hour, day, month, day of the week")
    for field, (low, high) in zip(numbers, _BOUNDS, strict=True):
        for part in field.split(","):
            found = _PART.fullmatch(part)
            if found is None or not all(low <= int(each) <= high for each in found.groups()[:2] if each):
                raise ValueError(f"{part!r} is no number from {low} to {high}, range (1-5), step (*/2) or *")
    if not all(_DAYS.fullmatch(part) for part in days.split(",")):
        raise ValueError("days of the week are written mon, tue, wed, thu, fri, sat, sun, e.g. sun or mon-fri")
    return value.lower()


def _time_zone(value: str) -> str:
    """Check the name of a time zone."""
    try:
        ZoneInfo(value)
    except (ValueError, OSError, LookupError) as error:
        raise ValueError("a time zone is a name such as UTC or Europe/Berlin") from error
    return value


class RebuildSettings(Section):
    """The scheduled rebuild of the model on new labelled images; it ends before promotion, with a report."""

    cron: Annotated[str, AfterValidator(_cron)] | None = Field(
        None, description='When, as "minute hour day month weekday", e.g. "0 3 * * sun"; absent: never by itself.'
    )
    time_zone: Annotated[str, AfterValidator(_time_zone)] = Field(
        "UTC", description="In which cron is read; an hour that comes twice counts once, one that is left out is not."
    )
    labels: Path | None = Field(None, description="CSV of test results, joined with the images that the service kept.")
    columns: tuple[str, ...] = Field((), description="Our name of a column of labels and its own: result=diagnosis.")
    words: tuple[str, ...] = Field((), description="A class and its word in labels: covid19=detected.")
    positive: str = Field("covid19", description="Class of positive labels.")
    date_format: str = Field("", description="Form of dates in labels, e.g. %d/%m/%Y; empty: ISO 8601 or YYYYMMDD.")
    days: int = Field(2, ge=0, description="Between label and image at most.")
    images: Path | None = Field(None, description="Folder of DICOM files; absent: those that are in the spool.")
    manifest: Path | None = Field(None, description="A manifest of `cxr train index` instead of labels and images.")
    recipe: str = Field("default-finetune", description="A training recipe's name, or a TOML file.")
    overrides: tuple[str, ...] = Field((), description="Keys of the recipe and their values: compute.devices=cpu.")
    start: Path | None = Field(None, description="Folder of the finished run whose weights it starts from.")
    runs_dir: Path | None = Field(None, description="Where runs go; absent: runs in data_dir.")
    min_new_images: int = Field(100, ge=1, description="Fewer new labelled images than this are not worth it.")
    compare_with_active: bool = Field(True, description="Also let the package in service score the test images.")
    processes: int = Field(1, ge=1, le=64, description="Processes that prepare images.")
    nice: int = Field(15, ge=0, le=19, description="How far it stands back behind the service; 19: furthest.")
    max_attempts: int = Field(5, ge=1, description="How often one is taken up again after it was killed.")

    @model_validator(mode="after")
    def _has_data(self) -> RebuildSettings:
        if self.cron is not None and (self.labels is None) == (self.manifest is None):
            raise ValueError("a rebuild needs either rebuild.labels or rebuild.manifest")
        return self
