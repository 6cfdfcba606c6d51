"""Split cases into train, validation and test, without a patient on two sides.

The unit is the patient, or the image where the patient is unknown. Patients are assigned one by one
(``training.cases.stratified_groups``), so that sizes and label shares are as close to the requested ones
as whole patients allow. The result depends on the cases and the seed, not on the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from cxr.errors import SplitError
from cxr.labels import FINDINGS
from training.cases.manifest import LABEL_PREFIX, SPLITS, label_columns
from training.cases.stratified_groups import Numbers, assign_groups

Strategy = Literal["patient", "temporal", "site", "image"]

DEFAULT_FRACTIONS: Mapping[str, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
DEFAULT_STRATIFY = ("label",)

IMAGE_PREFIX = "image:"

FAR = 0.15
"""Largest accepted difference of a side's share of the images from the wanted one."""


def groups(frame: pd.DataFrame) -> pd.Series:
    """Return the group of each case that must stay on one side: its patient, or the image if unknown."""
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
        A manifest; its column ``split`` is replaced.
    strategy
        ``patient``: at random. ``temporal``: patients whose newest image is from the newest months
        are the test, the others are assigned at random. ``site``: all patients seen at one site
        are the test. ``image``: at random by image, as published models did; every row gets
        ``image_wise = yes``, because a patient may be on two sides.
    fractions
        Share of images of ``train``, ``val`` and ``test``; they add up to 1. With ``temporal`` the
        test is the newest whole months up to its share; with ``site`` it is the site, and the other
        cases are split in the proportion of train and val.
    seed
        Seed of the order in which patients with equally many images are assigned.
    stratify
        Columns whose shares should be the same on all sides. Several columns of findings count one by one: an image is
        of the stratum of each finding that it has. Other columns count together, value by value.
    test_site
        For ``site``: the test's site; None: the one whose share of images is nearest to the test's.
    test_from
        For ``temporal``: the first month of the test, YYYY-MM; None: derived from the fraction.
    train_only
        Sources whose patients are in ``train`` only.

    Returns
    -------
    pandas.DataFrame
        The manifest with its column ``split``; every case has a side.

    Raises
    ------
    SplitError
        If these cases can't be split so.
    """
    targets = _checked_fractions(fractions)
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
            _newest(cases, group, targets, test_from) if strategy == "temporal" else _site(cases, targets, test_site)
        )
        sides[group.isin(set(group[is_test])) & (sides == "")] = "test"
        targets = {name: share for name, share in targets.items() if name != "test"}
    assigned = _assign_open(cases, group, sides, targets, seed=seed, stratify=stratify)
    result = cases.assign(split=assigned.astype(str))
    if strategy == "image":
        result["image_wise"] = "yes"
    assert_disjoint(result, patients=strategy != "image")
    return result


def leave_one_site_out(
    frame: pd.DataFrame, *, fractions: Mapping[str, float] = DEFAULT_FRACTIONS, seed: int = 0,
    stratify: Sequence[str] = DEFAULT_STRATIFY,
) -> Iterator[tuple[str, pd.DataFrame]]:  # fmt: skip
    """Split once for each site, with that site as the test.

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
    """Check that every case has a side, and no patient and no file is on two.

    Parameters
    ----------
    frame
        A manifest with its column ``split``.
    patients
        False for a split by image: only files are checked.

    Raises
    ------
    SplitError
        If the check fails; the message has the number, and no identifier of a patient.
    """
    if (without := int((~frame["split"].isin(SPLITS)).sum())) > 0:
        raise SplitError(f"{without} cases have no side; accepted are {', '.join(SPLITS)}: run `cxr train split`.")
    several = frame["path"].map(groups(frame).groupby(frame["path"].to_numpy()).nunique()) > 1
    if patients and several.any() and _on_two_sides(frame, frame["path"]):
        first = frame["path"][several].iloc[0]
        rows = [row + 1 for row in range(len(frame)) if frame["path"].iloc[row] == first][:3]
        raise SplitError(
            f"{int(frame['path'][several].nunique())} files are listed under several patients, so that they can't be "
            f"kept on one side: the first one in rows {', '.join(map(str, rows))} of the manifest (without its header "
            "line). Correct the patients, or keep one row of each file."
        )
    for kind, keys in (("patients", groups(frame)), ("files", frame["path"]))[0 if patients else 1 :]:
        if (shared := _on_two_sides(frame, keys)) > 0:
            raise SplitError(
                f"{shared} {kind} are on more than one side; a model would be tested on {kind} of its training: run "
                "`cxr train split` again."
            )


def refuse_far_sides(frame: pd.DataFrame, fractions: Mapping[str, float], *, test_is_named: bool) -> None:
    """Refuse a split with an empty side, or with sides far from the wanted shares.

    Parameters
    ----------
    frame
        A manifest with its column ``split``.
    fractions
        Wanted shares of ``train``, ``val`` and ``test``.
    test_is_named
        Whether a person named the test (a site, a month, sources of train): shares then follow from that, and only
        empty sides are refused.

    Raises
    ------
    SplitError
        With the shares, and the largest patient and month, which are what a split can't divide.
    """
    shares = {side: float((frame["split"] == side).mean()) for side in SPLITS}
    is_empty = any(fractions.get(side, 0) > 0 and shares[side] == 0 for side in SPLITS)
    is_far = any(abs(shares[side] - fractions.get(side, 0)) > FAR for side in SPLITS)
    if not is_empty and (test_is_named or not is_far):
        return
    months = frame.loc[frame["acquired_on"] != "", "acquired_on"].str.slice(0, 7).value_counts()
    largest = [f"the largest patient has {int(groups(frame).value_counts().max())} of {len(frame)} images"]
    largest += [f"the largest month, {months.index[0]}, has {int(months.iloc[0])}"] if len(months) else []
    found = ", ".join(f"{side} {share:.0%}" for side, share in shares.items())
    wanted = ", ".join(f"{side} {fractions.get(side, 0):.0%}" for side in SPLITS)
    raise SplitError(
        f"The sides would hold {found} of the images; wanted are {wanted}. Patients (and with --by temporal months) "
        f"stay whole, and {'; '.join(largest)}. Choose other --fractions, another --by, or --test-from."
    )


def warnings(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return warnings about a split: image-wise cases, shared patients, missing labels, overlapping dates.

    Returns
    -------
    tuple[str, ...]
        One sentence for each.
    """
    sentences = []
    if (image_wise := int((frame["image_wise"] == "yes").sum())) > 0:
        sentences.append(
            f"{image_wise} of {len(frame)} images have no certain patient: for them the split is image-wise, one "
            "patient may be on two sides, and figures from them are not for claims."
        )
    if (shared := _on_two_sides(frame, groups(frame))) > 0:
        sentences.append(
            f"{shared} patients are on more than one side: the model is tested on patients that it was trained on."
        )
    for side in SPLITS:
        present = set(frame.loc[frame["split"] == side, "label"])
        if not present:
            sentences.append(f"{side} has no cases.")
        elif missing := sorted(set(frame["label"]) - present):
            sentences.append(f"{side} has no image labelled {', '.join(name or 'nothing' for name in missing)}.")
    sentences += _mixed_columns(frame)
    newest_trained = frame.loc[frame["split"] == "train", "acquired_on"].max()
    tested = frame.loc[(frame["split"] == "test") & (frame["acquired_on"] != ""), "acquired_on"]
    if isinstance(newest_trained, str) and newest_trained and bool((tested <= newest_trained).any()):
        older = int((tested <= newest_trained).sum())
        sentences.append(
            f"Dates of train and test overlap, for {older} of {len(tested)} dated test images: the test is "
            "not of newer images alone. (Patients stay whole: with --by temporal their older images are in the test.)"
        )
    return tuple(sentences)


def _mixed_columns(frame: pd.DataFrame) -> Iterator[str]:
    """Yield a warning for every finding that is said of images with another label, which has no column itself."""
    columns = label_columns(frame)
    for column in columns:
        finding = column.removeprefix(LABEL_PREFIX)
        for label in sorted(set(frame["label"]) & set(FINDINGS) - {finding, "normal", "abnormal"}):
            is_both = (frame["label"] == label) & (frame[column] == 1)
            if LABEL_PREFIX + label not in columns and finding in FINDINGS and is_both.any():
                yield (
                    f"{int(is_both.sum())} images labelled {label} have 1 in {column}, and there is no column "
                    f"{LABEL_PREFIX}{label}: lines of another table may stand under this header line. Join manifests "
                    "with `cxr train merge`."
                )


def _on_two_sides(frame: pd.DataFrame, keys: pd.Series) -> int:
    return int((frame.groupby(keys.to_numpy())["split"].nunique() > 1).sum())


def summarise(frame: pd.DataFrame) -> list[dict[str, str | int]]:
    """Count images, patients and labels of each side.

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
    shares = {name: float(fractions.get(name, 0.0)) for name in SPLITS}
    is_complete = not set(fractions) - set(SPLITS) and abs(sum(shares.values()) - 1) < 1e-6
    if not is_complete or min(shares.values()) < 0 or shares["train"] == 0:
        raise SplitError(
            f"The fractions are {', '.join(f'{name}={share:g}' for name, share in fractions.items())}; accepted are "
            "train, val and test, none negative, train above 0, adding up to 1."
        )
    return shares


def _newest(cases: pd.DataFrame, group: pd.Series, targets: Mapping[str, float], test_from: str | None) -> pd.Series:
    """Mark the rows of patients whose newest image is in the newest months."""
    dated = cases["acquired_on"] != ""
    if not dated.any():
        raise SplitError("No case has a date (acquired_on): a temporal split needs dates; use `--by patient`.")
    newest = cases["acquired_on"].where(dated, "").groupby(group.to_numpy()).transform("max")
    months = newest.str.slice(0, 7)
    if test_from is None:
        counts = months[months != ""].value_counts().sort_index(ascending=False)
        reached = counts.cumsum().to_numpy() >= targets["test"] * len(cases)
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


def _site(cases: pd.DataFrame, targets: Mapping[str, float], test_site: str | None) -> pd.Series:
    """Mark the rows of the test's site."""
    sites = _sites(cases)
    if test_site is None:
        shares = cases["site"].value_counts() / len(cases)
        test_site = min(sites, key=lambda site: (abs(shares[site] - targets["test"]), site))
    if test_site not in sites:
        raise SplitError(f"No case is of the site that was named; accepted are {', '.join(sites)}.")
    return cases["site"] == test_site


def _assign_open(
    cases: pd.DataFrame, group: pd.Series, sides: pd.Series, targets: Mapping[str, float], *, seed: int,
    stratify: Sequence[str],
) -> pd.Series:  # fmt: skip
    """Assign the cases that have no side yet."""
    open_rows = sides == ""
    if not open_rows.any():
        return sides
    open_cases = cases[open_rows]
    codes, images = strata_of(open_cases, stratify)
    members = np.unique(group[open_rows].to_numpy(dtype=str), return_inverse=True)[1]
    # Cases of train_only count towards the share of train: the others are assigned to reach all shares.
    missing = {name: share * len(cases) - int((sides == name).sum()) for name, share in targets.items()}
    missing = {name: images for name, images in missing.items() if images > 0} or {"train": 1.0}
    side_of_group = assign_groups(members, codes, missing, np.random.default_rng(seed), images)
    assigned = sides.copy()
    assigned[open_rows] = np.array(list(missing))[side_of_group[members]]
    return assigned


def strata_of(cases: pd.DataFrame, stratify: Sequence[str]) -> tuple[Numbers, Numbers | None]:
    """Return strata of the cases, and of which case each is: None if each case has one; see ``split``."""
    findings = [name for name in stratify if name.startswith(LABEL_PREFIX)]
    if len(findings) < 2:
        findings = []
    others = [name for name in stratify if name not in findings]
    codes = np.zeros(len(cases), dtype=np.intp)
    if others:
        codes = np.asarray(cases.groupby(others, sort=True, dropna=False).ngroup(), dtype=np.intp)
    if not findings:
        return codes, None
    image, finding = np.nonzero((cases[findings] == 1).to_numpy(dtype=bool))
    numbers = np.concatenate([codes, codes.max() + 1 + finding.astype(np.intp)])
    return numbers, np.concatenate([np.arange(len(cases), dtype=np.intp), image.astype(np.intp)])
