"""Divide cases into train, validation and test, so that no patient is on two sides.

The unit is the patient, or the image where the patient is unknown. Patients are dealt out one by
one (``training.cases.stratified_groups``): fractions and shares of the labels come out as close as whole patients
allow. The result depends on the cases and the seed, not on their
order in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from cxr.errors import SplitError
from training.cases.manifest import SPLITS
from training.cases.stratified_groups import assign_groups

Strategy = Literal["patient", "temporal", "site", "image"]

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
DEFAULT_STRATIFY = ("label",)

IMAGE_PREFIX = "image:"


def groups(frame: pd.DataFrame) -> pd.Series:
    """Name what must stay together: the patient, or the image itself where none is known."""
    is_known = frame["patient_id"] != ""
    return frame["patient_id"].where(is_known, IMAGE_PREFIX + frame["image_id"])


def split(
    frame: pd.DataFrame,
    *,
    strategy: Strategy = "patient",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    stratify: Sequence[str] = DEFAULT_STRATIFY,
    test_site: str | None = None,
    test_from: str | None = None,
    train_only: Sequence[str] = (),
) -> pd.DataFrame:
    """Assign every case to a side.

    Parameters
    ----------
    frame
        A manifest; what its column ``split`` said before is replaced.
    strategy
        ``patient``: at random. ``temporal``: patients whose newest image is from the newest months
        are the test, the others are dealt out at random. ``site``: all patients seen at one site
        are the test. ``image``: at random by image, as published models did; every row is stamped
        image-wise, for one patient may be on two sides.
    fractions
        Share of images of ``train``, ``val`` and ``test``; they add up to 1. With ``temporal`` the
        test takes whole months, the newest, until it has its share; with ``site`` it takes the
        site, and the rest is divided in the proportion of the other two.
    seed
        Of the order in which patients of the same size are dealt out.
    stratify
        Columns whose shares should be the same on all sides.
    test_site
        For ``site``: which; None takes the one whose share of images is nearest to the test's.
    test_from
        For ``temporal``: the first month of the test, YYYY-MM; None finds it from the fraction.
    train_only
        Sources whose patients may only be trained on.

    Returns
    -------
    pandas.DataFrame
        The manifest with its column ``split``; every case has a side.

    Raises
    ------
    SplitError
        If that can't be done with these cases.
    """
    wanted = _checked_fractions(fractions)
    if unknown := [name for name in (*stratify,) if name not in frame]:
        raise SplitError(
            f"The manifest has no column {unknown[0]!r} to stratify by; it has {', '.join(map(str, frame))}."
        )
    if frame.empty:
        raise SplitError("The manifest has no cases; index a data set first (`cxr train index`).")
    cases = frame.reset_index(drop=True)
    group = groups(cases) if strategy != "image" else cases["image_id"]
    sides = pd.Series("", index=cases.index, dtype=object)
    sides[group.isin(set(group[cases["source"].isin(set(train_only))]))] = "train"
    if strategy in ("temporal", "site"):
        is_test = (
            _newest(cases, group, wanted, test_from) if strategy == "temporal" else _site(cases, wanted, test_site)
        )
        sides[group.isin(set(group[is_test])) & (sides == "")] = "test"
        wanted = {name: share for name, share in wanted.items() if name != "test"}
    assigned = _deal(cases, group, sides, wanted, seed=seed, stratify=stratify)
    result = cases.assign(split=assigned.astype(str))
    if strategy == "image":
        result["image_wise"] = "yes"
    assert_disjoint(result, patients=strategy != "image")
    return result


def leave_one_site_out(
    frame: pd.DataFrame, *, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0,
    stratify: Sequence[str] = DEFAULT_STRATIFY,
) -> Iterator[tuple[str, pd.DataFrame]]:  # fmt: skip
    """Make one split for each site, with that site as the test.

    Yields
    ------
    tuple[str, pandas.DataFrame]
        The site and the manifest.

    Raises
    ------
    SplitError
        If there are fewer than two sites.
    """
    for site in _sites(frame):
        yield site, split(frame, strategy="site", fractions=fractions, seed=seed, stratify=stratify, test_site=site)


def assert_disjoint(frame: pd.DataFrame, *, patients: bool = True) -> None:
    """Make sure that every case has a side, and that no patient and no file is on two.

    Parameters
    ----------
    frame
        A manifest with its column ``split``.
    patients
        False for a split by image: only files are looked at.

    Raises
    ------
    SplitError
        If not; the message says how many, and names no patient.
    """
    if (without := int((~frame["split"].isin(SPLITS)).sum())) > 0:
        raise SplitError(f"{without} cases have no side; accepted are {', '.join(SPLITS)}: run `cxr train split`.")
    for what, keys in (("patients", groups(frame)), ("files", frame["path"]))[0 if patients else 1 :]:
        if (shared := _on_two_sides(frame, keys)) > 0:
            raise SplitError(
                f"{shared} {what} are on more than one side; a model would be tested on {what} that it has seen: run "
                "`cxr train split` again."
            )


def warnings(frame: pd.DataFrame) -> tuple[str, ...]:
    """Say what limits the figures that this split can give.

    Returns
    -------
    tuple[str, ...]
        Sentences for people; empty if there is nothing to say.
    """
    said = []
    if (image_wise := int((frame["image_wise"] == "yes").sum())) > 0:
        said.append(
            f"{image_wise} of {len(frame)} images have no certain patient: for them the split is image-wise, one "
            "patient may be on two sides, and figures from them are not for claims."
        )
    if (shared := _on_two_sides(frame, groups(frame))) > 0:
        said.append(f"{shared} patients are on more than one side: the model is tested on patients that it has seen.")
    for side in SPLITS:
        present = set(frame.loc[frame["split"] == side, "label"])
        if not present:
            said.append(f"{side} has no cases.")
        elif missing := sorted(set(frame["label"]) - present):
            said.append(f"{side} has no image labelled {', '.join(name or 'nothing' for name in missing)}.")
    newest_trained = frame.loc[frame["split"] == "train", "acquired_on"].max()
    tested = frame.loc[(frame["split"] == "test") & (frame["acquired_on"] != ""), "acquired_on"]
    if isinstance(newest_trained, str) and newest_trained and bool((tested <= newest_trained).any()):
        older = int((tested <= newest_trained).sum())
        said.append(
            f"Dates of train and test overlap, for {older} of {len(tested)} dated test images: this is no test on "
            "newer images alone. (Patients stay whole: with --by temporal they bring their older images along.)"
        )
    return tuple(said)


def _on_two_sides(frame: pd.DataFrame, keys: pd.Series) -> int:
    return int((frame.groupby(keys.to_numpy())["split"].nunique() > 1).sum())


def summarise(frame: pd.DataFrame) -> list[dict[str, str | int]]:
    """Count what is on each side.

    Returns
    -------
    list[dict[str, str | int]]
        For every side: its name, images, patients (known ones), first and last date, images by label.
    """
    labels = sorted(set(frame["label"]))
    rows: list[dict[str, str | int]] = []
    for side in SPLITS:
        part = frame[frame["split"] == side]
        dates = part.loc[part["acquired_on"] != "", "acquired_on"]
        row: dict[str, str | int] = {"side": side, "images": len(part)}
        row["patients"] = int(part.loc[part["patient_id"] != "", "patient_id"].nunique())
        row |= {"from": dates.min() if len(dates) else "", "to": dates.max() if len(dates) else ""}
        rows.append(row | {name or "(no label)": int((part["label"] == name).sum()) for name in labels})
    return rows


def _checked_fractions(fractions: Mapping[str, float]) -> dict[str, float]:
    wanted = {name: float(fractions.get(name, 0.0)) for name in SPLITS}
    is_complete = not set(fractions) - set(SPLITS) and abs(sum(wanted.values()) - 1) < 1e-6
    if not is_complete or min(wanted.values()) < 0 or wanted["train"] == 0:
        raise SplitError(
            f"The fractions are {', '.join(f'{name}={share:g}' for name, share in fractions.items())}; accepted are "
            "train, val and test, none negative, train above 0, adding up to 1."
        )
    return wanted


def _newest(cases: pd.DataFrame, group: pd.Series, wanted: Mapping[str, float], test_from: str | None) -> pd.Series:
    """Rows of patients whose newest image is of the newest months."""
    dated = cases["acquired_on"] != ""
    if not dated.any():
        raise SplitError("No case has a date (acquired_on): a temporal split needs dates; use `--by patient`.")
    newest = cases["acquired_on"].where(dated, "").groupby(group.to_numpy()).transform("max")
    months = newest.str.slice(0, 7)
    if test_from is None:
        counts = months[months != ""].value_counts().sort_index(ascending=False)
        reached = counts.cumsum().to_numpy() >= wanted["test"] * len(cases)
        test_from = str(counts.index[int(reached.argmax())]) if reached.any() else str(counts.index[-1])
    is_test = months >= test_from
    if not is_test.any() or bool(is_test.all()):
        raise SplitError(
            f"With the test from {test_from} on, {'no' if not is_test.any() else 'every'} patient would be in it; the "
            f"cases' months are {months[months != ''].min()} to {months.max()}: choose another month, or `--by "
            "patient`."
        )
    return is_test


def _sites(cases: pd.DataFrame) -> list[str]:
    sites = sorted(set(cases["site"]) - {""})
    if len(sites) < 2:
        raise SplitError(f"The manifest names {len(sites)} sites; a split by site needs 2: use `--by patient`.")
    return sites


def _site(cases: pd.DataFrame, wanted: Mapping[str, float], test_site: str | None) -> pd.Series:
    """Rows of the site that is kept for the test."""
    sites = _sites(cases)
    if test_site is None:
        shares = cases["site"].value_counts() / len(cases)
        test_site = min(sites, key=lambda site: (abs(shares[site] - wanted["test"]), site))
    if test_site not in sites:
        raise SplitError(f"No case is of the site that was named; accepted are {', '.join(sites)}.")
    return cases["site"] == test_site


def _deal(
    cases: pd.DataFrame, group: pd.Series, sides: pd.Series, wanted: Mapping[str, float], *, seed: int,
    stratify: Sequence[str],
) -> pd.Series:  # fmt: skip
    """Deal out what has no side yet."""
    open_rows = sides == ""
    if not open_rows.any():
        return sides
    still_open = cases[open_rows]
    codes = np.zeros(len(still_open), dtype=np.intp)
    if stratify:
        numbered = still_open.groupby(list(stratify), sort=True, dropna=False).ngroup()
        codes = np.asarray(numbered, dtype=np.intp)
    members = np.unique(group[open_rows].to_numpy(dtype=str), return_inverse=True)[1]
    # A fixed side (train_only) has had its part: the rest is dealt out so that the whole comes out right.
    rest = {name: share * len(cases) - int((sides == name).sum()) for name, share in wanted.items()}
    rest = {name: images for name, images in rest.items() if images > 0} or {"train": 1.0}
    chosen = assign_groups(members, codes, rest, np.random.default_rng(seed))
    dealt = sides.copy()
    dealt[open_rows] = np.array(list(rest))[chosen[members]]
    return dealt
