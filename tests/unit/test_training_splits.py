from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr.errors import SplitError
from training.cases import assert_disjoint, complete, groups, split, summarise, warnings
from training.cases.splits import leave_one_site_out, refuse_far_sides

Rows = list[tuple[str, str, str, str]]


def cases(rows: Rows) -> pd.DataFrame:
    """A manifest of (patient, label, date, site); an empty patient is unknown."""
    table = pd.DataFrame(rows, columns=["patient_id", "label", "acquired_on", "site"])
    table["image_id"] = [f"test:{number}" for number in range(len(table))]
    table["path"] = table["image_id"] + ".png"
    table["source"] = "source-" + table["site"]
    table["image_wise"] = ["" if patient else "yes" for patient in table["patient_id"]]
    return complete(table)


dates = st.dates(pd.Timestamp("2020-01-01").date(), pd.Timestamp("2021-12-31").date()).map(str)
row = st.tuples(
    st.sampled_from(["", *(f"p{number}" for number in range(12))]),
    st.sampled_from(["normal", "covid19", ""]),
    st.one_of(dates, st.just("")),
    st.sampled_from(["north", "south", "east", ""]),
)
shares = st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.6, 0.4, 0.0), (1.0, 0.0, 0.0), (0.34, 0.33, 0.33)])
strategies = st.sampled_from(["patient", "temporal", "site"])


def named(share: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip(("train", "val", "test"), share, strict=True))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(row, min_size=1, max_size=40), shares, strategies, st.integers(0, 5), st.randoms())
def test_no_patient_is_ever_on_two_sides_and_every_case_has_one(
    rows: Rows, share: tuple[float, float, float], strategy: str, seed: int, shuffle: Callable[..., None]
) -> None:
    frame = cases(rows)
    try:
        divided = split(frame, strategy=strategy, fractions=named(share), seed=seed)  # type: ignore[arg-type]
    except SplitError:
        return  # no dates, one site, everybody in the test: said so, nothing divided

    known = divided[divided["patient_id"] != ""]
    assert (known.groupby("patient_id")["split"].nunique() <= 1).all()
    assert divided["split"].isin(["train", "val", "test"]).all()
    assert list(divided["image_id"]) == list(frame["image_id"])
    assert divided.drop(columns="split").equals(frame.drop(columns="split"))
    again = split(frame, strategy=strategy, fractions=named(share), seed=seed)  # type: ignore[arg-type]
    assert divided.equals(again)
    shuffled = frame.sample(frac=1, random_state=shuffle.randint(0, 2**31))  # type: ignore[attr-defined]
    in_another_order = split(shuffled, strategy=strategy, fractions=named(share), seed=seed)  # type: ignore[arg-type]
    assert dict(zip(divided["image_id"], divided["split"], strict=True)) == dict(
        zip(in_another_order["image_id"], in_another_order["split"], strict=True)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=60, max_size=200),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.25, 0.25), (0.6, 0.4, 0.0)]),
    st.integers(0, 3),
)
def test_fractions_and_shares_of_labels_are_met_within_one_large_patient(
    sizes: list[int], share: tuple[float, float, float], seed: int
) -> None:
    rows = [
        (f"p{patient}", "covid19" if patient % 4 == 0 else "normal", "", "")
        for patient, size in enumerate(sizes)
        for _ in range(size)
    ]
    divided = split(cases(rows), fractions=named(share), seed=seed)
    for side, fraction in named(share).items():
        part = divided[divided["split"] == side]
        assert abs(len(part) - fraction * len(rows)) <= 6
        for label in ("covid19", "normal"):
            whole = sum(1 for row in rows if row[1] == label)
            assert abs((part["label"] == label).sum() - fraction * whole) <= 6


def test_another_seed_is_another_split() -> None:
    frame = cases([(f"p{number}", "normal", "", "") for number in range(50)])
    assert not split(frame, seed=1).equals(split(frame, seed=2))
    assert split(frame).equals(split(frame, seed=0)), "the documented default"


def test_without_stratification_labels_still_do_not_break_the_fractions() -> None:
    frame = cases([(f"p{number}", "normal" if number % 2 else "covid19", "", "") for number in range(100)])
    assert split(frame, stratify=())["split"].value_counts().to_dict() == {"train": 80, "val": 10, "test": 10}


def test_large_patients_are_shared_out_too() -> None:
    rows = [(f"p{number}", "normal", "", "") for number in range(40) for _ in range(10 if number < 20 else 1)]
    divided = split(cases(rows), fractions={"train": 0.5, "val": 0.25, "test": 0.25})
    sizes = divided.groupby(["split", "patient_id"]).size()
    assert {side: int((sizes[side] == 10).sum()) for side in ("train", "val", "test")} == {
        "train": 10,
        "val": 5,
        "test": 5,
    }


def test_temporal_takes_whole_newest_months_by_each_patients_newest_image() -> None:
    rows = [(f"p{month}-{n}", "normal", f"2020-{month:02}-15", "") for month in range(1, 11) for n in range(10)]
    rows.append(("p1-0", "normal", "2020-10-20", ""))  # seen in January and again in October
    divided = split(cases(rows), strategy="temporal", fractions={"train": 0.8, "val": 0.1, "test": 0.1})

    tested = divided[divided["split"] == "test"]
    assert set(tested["patient_id"]) == {f"p10-{n}" for n in range(10)} | {"p1-0"}
    assert len(tested) == 12
    rest = divided[divided["split"] != "test"]
    assert rest["acquired_on"].max() == "2020-09-15"
    assert set(rest["split"]) == {"train", "val"}
    overlap = [said for said in warnings(divided) if said.startswith("Dates of train and test overlap")]
    assert len(overlap) == 1
    assert "for 1 of 12 dated test images" in overlap[0]
    without_the_returner = divided[divided["patient_id"] != "p1-0"]
    assert not [said for said in warnings(without_the_returner) if "overlap" in said]


def test_temporal_counts_whole_patients_when_it_looks_for_the_month() -> None:
    rows = [(f"p{month}-{n}", "normal", f"2020-{month:02}-15", "") for month in range(1, 10) for n in range(10)]
    rows += [(f"p9-{n}", "normal", "2020-10-15", "") for n in range(10)]  # all of September came again
    divided = split(cases(rows), strategy="temporal", fractions=named((0.7, 0.1, 0.2)))
    assert set(divided.loc[divided["split"] == "test", "patient_id"]) == {f"p9-{n}" for n in range(10)}
    more = [*rows, *((f"q{n}", "normal", "2020-09-20", "") for n in range(10))]
    divided = split(cases(more), strategy="temporal", fractions={"train": 0.75, "val": 0.1, "test": 0.15})
    assert set(divided.loc[divided["split"] == "test", "patient_id"]) == {f"p9-{n}" for n in range(10)}


def test_temporal_from_a_month_that_was_named() -> None:
    rows = [(f"p{month}", "normal", f"2020-{month:02}-15", "") for month in range(1, 11)]
    divided = split(cases(rows), strategy="temporal", test_from="2020-06")
    assert set(divided.loc[divided["split"] == "test", "patient_id"]) == {f"p{month}" for month in range(6, 11)}
    with pytest.raises(SplitError, match="2020-01 to 2020-10"):
        split(cases(rows), strategy="temporal", test_from="2022-01")


def test_site_takes_every_patient_that_was_seen_there() -> None:
    rows = [(f"p{n}", "normal", "", "north" if n < 10 else "south") for n in range(30)]
    rows.append(("p20", "normal", "", "north"))
    divided = split(cases(rows), strategy="site", test_site="north")
    tested = divided[divided["split"] == "test"]
    assert set(tested["patient_id"]) == {f"p{n}" for n in range(10)} | {"p20"}


def test_every_site_is_the_test_once() -> None:
    rows = [(f"p{n}", "normal", "", ("north", "south", "east")[n % 3]) for n in range(30)]
    divided = dict(leave_one_site_out(cases(rows)))
    assert sorted(divided) == ["east", "north", "south"]
    for site, frame in divided.items():
        assert set(frame.loc[frame["split"] == "test", "site"]) == {site}
        assert site not in set(frame.loc[frame["split"] != "test", "site"])


def test_sources_that_are_only_for_training_stay_there_with_their_patients() -> None:
    rows = [(f"p{n}", "normal", "", "north" if n < 5 else "south") for n in range(50)]
    rows.append(("p0", "normal", "", "south"))  # the same patient at the other source
    divided = split(cases(rows), fractions=named((0.5, 0.25, 0.25)), train_only=["source-north"])
    assert set(divided.loc[divided["patient_id"].isin({f"p{n}" for n in range(5)}), "split"]) == {"train"}
    assert abs((divided["split"] == "train").sum() - 25) <= 2


def test_unknown_patients_are_kept_image_by_image_and_said() -> None:
    frame = cases([("", "normal", "", "")] * 30 + [("p1", "normal", "", "")] * 10)
    assert groups(frame).nunique() == 31
    divided = split(frame)
    assert set(divided["image_wise"]) == {"yes", ""}
    assert "30 of 40 images have no certain patient" in warnings(divided)[0]
    assert not [said for said in warnings(divided[divided["patient_id"] != ""]) if "certain" in said]


def test_a_label_or_a_side_without_cases_is_said() -> None:
    divided = split(cases([("p1", "normal", "", ""), ("p2", "covid19", "", "")]))
    assert {"val has no cases.", "test has no cases."} <= set(warnings(divided))
    frame = cases([("p1", "normal", "", ""), ("p2", "covid19", "", ""), ("p3", "normal", "", "")])
    assert "test has no image labelled covid19." in warnings(frame.assign(split=["train", "train", "test"]))


@pytest.mark.parametrize(
    ("sides", "fault"),
    [
        (["train", "test", ""], "1 cases have no side"),
        (["train", "test", "elsewhere"], "1 cases have no side"),
        (["train", "test", "val"], "1 patients are on more than one side"),
    ],
)
def test_assertion_sees_what_is_wrong(sides: list[str], fault: str) -> None:
    frame = cases([("p1", "normal", "", ""), ("p2", "normal", "", ""), ("p1", "normal", "", "")])
    with pytest.raises(SplitError, match=fault):
        assert_disjoint(frame.assign(split=sides))


def test_assertion_sees_one_file_on_two_sides() -> None:
    frame = cases([("p1", "normal", "", ""), ("p2", "normal", "", "")])
    frame["path"] = "same.png"
    with pytest.raises(SplitError, match="1 files"):
        assert_disjoint(frame.assign(split=["train", "test"]))


@pytest.mark.parametrize(
    "fractions",
    [{"train": 0.5, "val": 0.1}, {"train": 1.2, "val": -0.2}, {"train": 0.0, "test": 1.0}, {"train": 0.9, "dev": 0.1}],
)
def test_fractions_that_make_no_sense_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(SplitError, match="adding up to 1"):
        split(cases([("p1", "normal", "", "")]), fractions=fractions)


def test_what_the_cases_do_not_have_is_refused() -> None:
    frame = cases([("p1", "normal", "", "north"), ("p2", "normal", "", "")])
    with pytest.raises(SplitError, match="No case has a date"):
        split(frame, strategy="temporal")
    with pytest.raises(SplitError, match="names 1 sites"):
        split(frame, strategy="site")
    with pytest.raises(SplitError, match="no column 'colour'"):
        split(frame, stratify=("colour",))
    with pytest.raises(SplitError, match="no cases"):
        split(frame.iloc[:0])


def test_summary_counts_sides_patients_and_labels() -> None:
    frame = cases([("p1", "normal", "2020-01-01", ""), ("p1", "covid19", "2020-02-01", ""), ("", "normal", "", "")])
    rows = summarise(frame.assign(split=["train", "train", "test"]))
    assert rows[0] == {
        "side": "train", "images": 2, "patients": 1, "from": "2020-01-01", "to": "2020-02-01", "covid19": 1,
        "normal": 1,
    }  # fmt: skip
    assert rows[2]["patients"] == 0


def test_split_by_image_stamps_every_row_and_says_what_it_does() -> None:
    frame = cases([(f"p{n // 10}", "normal", "", "") for n in range(100)])
    divided = split(frame, strategy="image")
    assert divided["split"].value_counts().to_dict() == {"train": 80, "val": 10, "test": 10}
    assert set(divided["image_wise"]) == {"yes"}
    assert any("patients are on more than one side" in said for said in warnings(divided))
    with pytest.raises(SplitError, match="patients are on more than one side"):
        assert_disjoint(divided)


def test_lines_of_another_table_under_a_header_line_are_warned_of() -> None:
    cohen = cases([("p1", "covid19", "", ""), ("p2", "normal", "", "")]).assign(label_covid19=[1.0, 0.0])
    rsna = cases([("p3", "lung_opacity", "", ""), ("p4", "normal", "", "")]).assign(label_covid19=[1.0, 0.0])
    by_hand = pd.concat([cohen, rsna], ignore_index=True)
    assert any("1 images labelled lung_opacity have 1 in label_covid19" in each for each in warnings(by_hand))
    both = by_hand.assign(label_lung_opacity=[0.0, 0.0, 1.0, 0.0])
    assert not any("label_covid19" in each for each in (*warnings(cohen), *warnings(both)))


def test_each_of_several_findings_is_shared_out_by_itself() -> None:
    random = np.random.default_rng(0)
    count = 600
    findings = {f"label_f{place}": (random.random(count) < share).astype(float)
                for place, share in enumerate((0.4, 0.2, 0.1, 0.05, 0.05, 0.03, 0.03, 0.02))}  # fmt: skip
    names = [f"image{number}" for number in range(count)]
    patients = [f"p{number}" for number in random.integers(0, 300, count)]
    frame = complete(pd.DataFrame({"image_id": names, "path": names, "patient_id": patients, **findings}))
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    result = split(frame, fractions=shares, stratify=tuple(findings))
    for name in findings:
        total = int((result[name] == 1).sum())
        for side, share in shares.items():
            there = int(((result[name] == 1) & (result["split"] == side)).sum())
            assert abs(there - share * total) <= 2, (name, side, there, total)
    sizes = result["split"].value_counts()
    assert all(abs(sizes[side] - share * count) <= 6 for side, share in shares.items())


def test_a_split_with_an_empty_side_or_far_from_the_fractions_is_refused() -> None:
    few = split(cases([("p1", "normal", "", "")] * 10 + [("p2", "normal", "", "")]))
    with pytest.raises(SplitError, match=r"test 0% of .* wanted are train 80%.*largest patient has 10 of 11 images"):
        refuse_far_sides(few, named((0.8, 0.1, 0.1)), test_is_named=True)
    rows = [(f"p{n}", "normal", "2018-01-01" if n < 90 else "2017-01-01", "") for n in range(100)]
    newest = split(cases(rows), strategy="temporal")
    with pytest.raises(SplitError, match=r"test 90%.*the largest month, 2018-01, has 90"):
        refuse_far_sides(newest, named((0.8, 0.1, 0.1)), test_is_named=False)
    refuse_far_sides(newest, named((0.8, 0.1, 0.1)), test_is_named=True)
    refuse_far_sides(split(cases(rows)), named((0.8, 0.1, 0.1)), test_is_named=False)


def test_a_file_under_several_patients_is_named() -> None:
    frame = cases([("p1", "normal", "", ""), ("p2", "normal", "", ""), ("p3", "normal", "", "")])
    frame["path"] = ["a.png", "b.png", "a.png"]
    with pytest.raises(SplitError, match=r"1 files are listed under several patients.*rows 1, 3 of the manifest"):
        assert_disjoint(frame.assign(split=["train", "train", "test"]))
