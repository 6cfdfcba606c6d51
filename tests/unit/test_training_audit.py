"""The audit: leaks, copies, baselines without images, lungs painted over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import tomlkit
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from app.cli import app
from cxr.errors import ManifestError
from training.audit.blanked_lungs import blank_lungs, blanked_audit, keep_border
from training.audit.dataset import audit, label_tables
from training.audit.file_forms import FORM, read_forms
from training.audit.near_duplicates import NEAR_BITS, Hashed, difference_hash, find_copies, hash_file, hash_files
from training.audit.report import AUDIT_FILE, read_summary
from training.cases import complete, write_manifest
from training.evaluation import metadata_only, source_only
from training.evaluation.baselines import baseline
from training.recipe import load_recipe


def manifest(count: int = 120, **columns: object) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    given = {
        "image_id": [f"made:{row}" for row in range(count)],
        "path": [f"images/{row}.png" for row in range(count)],
        "source": generator.choice(["alpha", "beta"], count),
        "patient_id": [f"P{row // 2}" for row in range(count)],
        "study_id": [f"S{row}" for row in range(count)],
        "label": ["covid19" if row // 2 % 3 == 0 else "normal" for row in range(count)],
        "view": generator.choice(["AP", "PA"], count),
        "sex": generator.choice(["F", "M", ""], count),
        "age": generator.choice(["30", "70", ""], count),
        "split": [("train", "val", "test")[row // 2 % 5 % 3] for row in range(count)],
    }
    return complete(pd.DataFrame(given | columns))


def film(seed: int, side: int = 300) -> np.ndarray:
    """A smooth picture, as far from noise as a radiograph is."""
    noise = np.random.default_rng(seed).normal(size=(12, 12)).astype(np.float32)
    smooth = cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC)
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


class TestBaselines:
    def test_a_source_that_is_the_label_explains_everything(self):
        frame = manifest()
        truth = frame["label"] == "covid19"
        frame["source"] = np.where(truth, "alpha", "beta")
        found = source_only(frame, truth, frame["patient_id"])
        assert found.auc.value == 1
        assert found.auc.interval.low < 1
        assert found.columns == ("source",)

    def test_columns_without_knowledge_are_at_chance(self):
        areas = []
        for seed in range(8):
            generator = np.random.default_rng(seed)
            frame = manifest(600, view=generator.choice(["AP", "PA"], 600), sex=generator.choice(["F", "M"], 600))
            truth = generator.integers(0, 2, 600)
            areas.append(metadata_only(frame, truth, frame["patient_id"]).auc.value)
        assert np.mean(areas) == pytest.approx(0.5, abs=0.02)  # pooled folds would be below it

    def test_a_known_share_of_knowledge_is_found(self):
        generator = np.random.default_rng(3)
        truth = generator.integers(0, 2, 3000)
        view = np.where(generator.random(3000) < np.where(truth == 1, 0.8, 0.3), "AP", "PA")
        frame = manifest(3000, view=view)
        found = baseline("view", frame, ("view",), truth, frame["patient_id"])
        assert found.auc.value == pytest.approx(roc_auc_score(truth, view == "AP"), abs=0.01)
        assert found.auc.interval.holds(0.75)

    def test_ages_count_by_band_and_missing_values_count(self):
        frame = manifest(400)
        truth = frame["age"].isna()
        assert metadata_only(frame, truth, frame["patient_id"]).auc.value > 0.95

    def test_a_patients_images_are_never_on_both_sides(self):
        # The column names the patient, and the label is the patient's: only a leak could tell.
        generator = np.random.default_rng(0)
        frame = manifest(300, site=[f"site {row // 2}" for row in range(300)], source="one")
        truth = np.repeat(generator.integers(0, 2, 150), 2)
        found = source_only(frame, truth, frame["patient_id"])
        assert found.columns == ("site",)
        assert found.auc.value == pytest.approx(0.5, abs=0.05)
        leaking = source_only(frame, truth, np.arange(300))
        assert leaking.auc.value > 0.8

    def test_without_columns_or_patients_there_is_no_knowledge_or_no_figure(self):
        frame = manifest(20, source="one")
        assert source_only(frame, [0, 1] * 10, np.arange(20)).auc.value == 0.5
        assert source_only(manifest(20), [0] * 20, np.arange(20)).auc is None
        one_patient = [1, 1] + [0] * 18
        assert source_only(manifest(20), one_patient, manifest(20)["patient_id"]).auc is None

    def test_of_the_real_radiographs_the_source_is_nearly_the_label(self, shared_data: Path):
        table = pd.read_csv(shared_data / "images.csv", keep_default_na=False)
        table = table[(table["is_frontal"] == "yes") & (table["label_conflict"] != "yes")].reset_index(drop=True)
        frame = table.assign(source=table["source_dataset"], age=pd.to_numeric(table["age"], errors="coerce"))
        covid = table["finding"] == "covid19"
        assert source_only(frame, covid, table["patient_id"]).auc.value > 0.99
        assert metadata_only(frame, covid, table["patient_id"]).auc.value > 0.97
        inside = frame[frame["source"].str.startswith("NIH")].reset_index(drop=True)
        normal = inside["finding"] == "normal"
        assert source_only(inside, normal, inside["patient_id"]).auc.value == 0.5


class TestCopies:
    @pytest.mark.parametrize(
        "change",
        [
            lambda image: cv2.resize(image, (150, 150), interpolation=cv2.INTER_AREA),
            lambda image: cv2.resize(image, (224, 140), interpolation=cv2.INTER_AREA),
            lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0),
            lambda image: (image * 0.6 + 20).astype(np.uint8),
            lambda image: (255 * (image / 255) ** 0.7).astype(np.uint8),
        ],
        ids=["half", "squashed", "jpeg", "contrast", "gamma"],
    )
    def test_a_changed_copy_is_near_and_other_films_are_not(self, change):
        films = [film(seed) for seed in range(30)]
        hashes = [difference_hash(each) for each in films] + [difference_hash(change(films[7]))]
        found = find_copies(hashes, [None] * 31)
        assert [(pair.first, pair.second, pair.is_exact) for pair in found] == [(7, 30, False)]
        assert found[0].bits <= NEAR_BITS

    def test_finds_exactly_the_pairs_that_a_search_over_all_finds(self):
        generator = np.random.default_rng(0)
        base = generator.integers(0, 256, (40, 32), dtype=np.uint8)
        hashes = [np.array(row) for row in base]
        for row in base[:20]:
            flips = np.zeros(256, dtype=np.uint8)
            flips[generator.choice(256, generator.integers(0, 2 * NEAR_BITS), replace=False)] = 1
            hashes.append(row ^ np.packbits(flips))
        expected = {
            (one, other, int(np.bitwise_count(hashes[one] ^ hashes[other]).sum()))
            for one in range(60)
            for other in range(one + 1, 60)
        }
        expected = {pair for pair in expected if pair[2] <= NEAR_BITS}
        assert {(pair.first, pair.second, pair.bits) for pair in find_copies(hashes, [None] * 60)} == expected
        assert len(expected) > 5

    def test_the_same_bytes_are_exact_copies_even_if_they_are_no_image(self):
        found = find_copies([None, None, None], ["a", "b", "a"])
        assert [(pair.first, pair.second, pair.is_exact) for pair in found] == [(0, 2, True)]
        assert find_copies([], []) == ()

    def test_files_are_hashed_and_what_can_not_be_read_is_none(self, tmp_path):
        cv2.imwrite(str(tmp_path / "film.png"), film(0))
        (tmp_path / "text.png").write_text("no picture")
        digest, bits = hash_file(tmp_path / "film.png")
        assert np.bitwise_count(bits ^ difference_hash(film(0))).sum() <= 2
        assert len(digest) == 64
        assert hash_file(tmp_path / "text.png")[1] is None
        assert hash_file(tmp_path / "text.png")[0] is not None
        assert hash_file(tmp_path / "absent.png") == (None, None)

    def test_many_files_are_hashed_by_several_processes_in_order(self, tmp_path):
        paths = []
        for number in range(70):
            paths.append(tmp_path / f"{number}.png")
            cv2.imwrite(str(paths[-1]), film(number, side=40))
        seen = []
        found = hash_files(paths, processes=2, progress=lambda step, done, total: seen.append((done, total)))
        assert seen[-1] == (70, 70)
        assert found.digests == tuple(hash_file(path)[0] for path in paths)

    def test_different_real_films_are_not_near(self, shared_data: Path):
        files = pd.read_csv(shared_data / "images.csv")["file"][::6]
        hashes = [difference_hash(cv2.imread(str(shared_data / file), cv2.IMREAD_GRAYSCALE)) for file in files]
        assert find_copies(hashes, [None] * len(hashes)) == ()


class TestReport:
    def test_an_honest_manifest_has_no_cautions(self):
        report = audit(manifest())
        assert report.cautions == ()
        assert (report.images, report.patients, report.images_without_patient) == (120, 60, 0)
        assert report.labels == {"covid19": 40, "normal": 80}
        assert sum(sum(each.values()) for each in report.attributes["view"].values()) == 120
        assert set(report.attributes["age"]) == {"18-39", "60-79", "unknown"}

    def test_leaks_and_missing_patients_are_said_without_naming_anyone(self):
        frame = manifest()
        frame.loc[0, "split"], frame.loc[1, "split"] = "train", "test"
        frame.loc[[2, 9], "study_id"] = "shared"
        frame.loc[[2, 9], "split"] = ["val", "test"]
        frame.loc[50:, "patient_id"] = ""
        report = audit(frame)
        codes = [each.code for each in report.cautions]
        assert codes[:3] == ["shared_patients", "shared_studies", "image_wise"]
        assert report.shared_patients["train and test"] >= 1
        assert report.shared_studies["val and test"] == 1
        assert not any("P0" in each.sentence for each in report.cautions)

    def test_a_shortcut_is_said(self):
        frame = manifest()
        frame["source"] = np.where(frame["label"] == "covid19", "alpha", "beta")
        codes = {each.code for each in audit(frame).cautions}
        assert codes == {"shortcut_source_only"}

    def test_the_form_of_the_files_is_a_shortcut_of_its_own(self, tmp_path):
        frame = manifest(60)
        is_covid = (frame["label"] == "covid19").to_numpy()
        frame["path"] = [str(tmp_path / f"{row}{'.jpg' if each else '.png'}") for row, each in enumerate(is_covid)]
        for row, path in enumerate(frame["path"]):
            cv2.imwrite(path, film(row, side=80))
        frame.loc[0, "path"] = str(tmp_path / "absent.png")
        report = audit(frame, forms=read_forms([Path(path) for path in frame["path"]]))
        found = {each.label: each.baselines[-1] for each in report.label_audits}["covid19"]
        assert (found.name, found.auc.value) == ("form_only", 1)
        assert found.auc.interval is not None
        assert set(found.columns) >= {"file kind", "file size"}
        assert "rows x columns" not in found.columns  # one value
        assert {each.code for each in report.cautions} == {"shortcut_form_only"}
        report.to_json(tmp_path / AUDIT_FILE)
        summary, cautions = read_summary(tmp_path / AUDIT_FILE, {"covid19", "normal"})
        assert summary["covid19 from " + ", ".join(found.columns)].startswith("ROC AUC 1.000")
        assert any(each.startswith("covid19 can be told from file kind") for each in cautions)
        cases = frame.assign(source="alpha")
        assert "form_only" not in {base.name for each in audit(cases).label_audits for base in each.baselines}

    def test_files_of_one_form_tell_nothing(self):
        frame = manifest(60)
        same = pd.DataFrame([("PNG L", "5793", "80 x 80", "91", "1.0", "8")] * 60, columns=list(FORM))
        (found,) = (each.baselines[-1] for each in audit(frame, forms=same).label_audits if each.label == "covid19")
        assert (found.auc.value, found.columns) == (0.5, ())

    def test_forms_of_pictures_and_of_dicom_files(self, tmp_path):
        for name, picture in (("grey", film(0)), ("deep", film(0).astype(np.uint16) << 8)):
            cv2.imwrite(str(tmp_path / f"{name}.png"), picture[:200])
        cv2.imwrite(str(tmp_path / "colour.jpg"), np.stack([film(0)] * 3, axis=-1))
        (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
        (tmp_path / "text.dcm").write_text("no image")
        example = Path(__file__).parents[2] / "docs" / "example" / "frontal.dcm"
        names = ("grey.png", "deep.png", "colour.jpg", "broken.png", "text.dcm", "absent.png")
        forms = read_forms([*(tmp_path / name for name in names), example])
        assert forms["file kind"].tolist()[:3] == ["PNG L", "PNG I;16", "JPEG RGB"]
        assert forms["rows x columns"].tolist()[:3] == ["200 x 300", "200 x 300", "300 x 300"]
        assert forms["aspect"].tolist()[:3] == ["1.5", "1.5", "1.0"]
        assert forms["bits"].tolist()[:3] == ["8", "16", "8"]
        assert (forms.iloc[3:6] == "").all(axis=None)
        dataset = pydicom.dcmread(example, stop_before_pixels=True)
        said = forms.iloc[6]
        assert said["file kind"] == f"DICOM {dataset.file_meta.TransferSyntaxUID}"
        assert said["rows x columns"] == f"{dataset.Rows} x {dataset.Columns}"
        assert said["bits"] == str(dataset.BitsStored)

    def test_copies_are_counted_by_what_they_spoil(self):
        frame = manifest(8, split=["train"] * 4 + ["test"] * 4, label=["normal"] * 7 + ["covid19"])
        bits = [np.random.default_rng(row).integers(0, 256, 32, dtype=np.uint8) for row in range(8)]
        bits[7] = bits[0]
        hashed = Hashed(digests=("a", "b", "b", "c", "d", "e", "f", "g"), hashes=(*bits[:5], None, bits[6], bits[7]))
        report = audit(frame, hashed=hashed)
        copies = report.copies
        assert (copies.exact_pairs, copies.near_pairs, copies.unreadable) == (1, 1, 1)
        assert (copies.across_splits, copies.across_labels, copies.across_patients) == (1, 1, 2)
        assert copies.examples[0] == ("made:0", "made:7")
        codes = {each.code for each in report.cautions}
        assert {"copies_across_splits", "copies_across_labels", "unreadable"} <= codes

    def test_survives_its_file_as_words(self, tmp_path):
        frame = manifest()
        frame["source"] = np.where(frame["label"] == "covid19", "alpha", "beta")
        report = audit(frame)
        report.to_json(tmp_path / AUDIT_FILE)
        summary, cautions = read_summary(tmp_path / AUDIT_FILE, {"covid19", "normal"})
        assert summary == report.summary()
        assert cautions == tuple(each.sentence for each in report.cautions)
        (tmp_path / "broken.json").write_text("{}")
        with pytest.raises(ManifestError, match=r"broken\.json"):
            read_summary(tmp_path / "broken.json", ())

    def test_a_card_hears_nothing_of_labels_that_its_model_lacks(self, tmp_path):
        frame = manifest()
        frame["source"] = np.where(frame["label"] == "covid19", "alpha", "beta")
        frame.loc[0, "patient_id"] = ""
        audit(frame).to_json(tmp_path / AUDIT_FILE)
        _, of_both = read_summary(tmp_path / AUDIT_FILE, {"covid19", "normal"})
        _, of_one = read_summary(tmp_path / AUDIT_FILE, {"covid19"})
        assert any(sentence.startswith("normal can be told") for sentence in of_both)
        assert of_one == tuple(sentence for sentence in of_both if not sentence.startswith("normal"))
        assert any(sentence.startswith("covid19 can be told from source") for sentence in of_one)
        assert any("no patient" in sentence for sentence in of_one)  # what concerns every model stays

    def test_tables_for_drawing_hold_every_image(self):
        tables = label_tables(audit(manifest()))
        assert "manufacturer" not in tables  # one value: nothing to see
        assert {name: int(table.to_numpy().sum()) for name, table in tables.items()} == dict.fromkeys(tables, 120)


class TestLungsPaintedOver:
    def images(self, count=80, size=32):
        """Disease is a bright spot in the lung; the hospital is a bright corner."""
        truth = np.arange(count) % 2
        images = np.random.default_rng(0).uniform(0.3, 0.4, (count, size, size, 1)).astype(np.float32)
        images[truth == 1, 14:18, 14:18] += 0.3
        return truth, images

    def test_a_model_that_reads_lungs_loses_everything(self):
        truth, images = self.images()
        found = blanked_audit("covid19", images, truth, lambda shown: shown[:, 12:20, 12:20].mean(axis=(1, 2, 3)))
        assert found.whole.value == 1
        assert found.blanked.value == found.border_only.value == 0.5
        assert not found.is_shortcut

    def test_a_model_that_reads_the_corner_is_found_out(self):
        truth, images = self.images()
        images[truth == 1, :2, :2] = 1
        found = blanked_audit("covid19", images, truth, lambda shown: shown[:, :2, :2].mean(axis=(1, 2, 3)))
        assert found.blanked.value == found.border_only.value == 1
        assert found.is_shortcut
        report = audit(manifest(), blanked=[found])
        assert [each.code for each in report.cautions] == ["shortcut_blanked_lungs"]
        assert "covid19 without lungs" in report.summary()

    def test_nothing_of_the_lungs_is_left_not_even_their_mean(self):
        _, images = self.images()
        mask = np.zeros(images.shape[:3], dtype=bool)
        mask[:, 10:20, 5:9] = True
        for blanked, inside in (
            (blank_lungs(images, mask), mask[..., None]),
            (blank_lungs(images), np.isclose(blank_lungs(images), 0.5)),
        ):
            assert blanked.dtype == np.float32
            assert (blanked[inside] == 0.5).all()
            assert np.array_equal(blanked[~inside], images[~inside])
        assert (keep_border(images)[:, 3:-3, 3:-3] == 0.5).all()
        assert np.array_equal(keep_border(images)[:, :3], images[:, :3])

    def test_one_class_has_no_area(self):
        _, images = self.images(4)
        found = blanked_audit("covid19", images, [1] * 4, lambda shown: shown.mean(axis=(1, 2, 3)))
        assert found.whole is None
        assert not found.is_shortcut


class TestVerb:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app", "train", "audit", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        frame = manifest(40)
        frame["source"] = np.where(frame["label"] == "covid19", "alpha", "beta")
        (tmp_path / "images").mkdir()
        for row, path in enumerate(frame["path"]):
            cv2.imwrite(str(tmp_path / path), film(row, side=80))
        (tmp_path / frame["path"][39]).write_bytes((tmp_path / frame["path"][0]).read_bytes())
        write_manifest(frame, tmp_path / "manifest.csv")
        return tmp_path

    def test_prints_warnings_and_writes_the_report(self, folder):
        done = self.run(str(folder / "manifest.csv"))
        assert done.returncode == 0, done.stderr
        assert "warning (shortcut_source_only): covid19" in done.stderr
        assert "warning (copies_across_" in done.stderr
        report = json.loads((folder / AUDIT_FILE).read_text())
        assert report["copies"]["exact_pairs"] == 1
        assert [base["name"] for base in report["label_audits"][0]["baselines"]][-1] == "form_only"

    def test_asks_a_package_about_lungs_and_draws(self, folder, tiny_package):
        package = tiny_package("covid19")
        more = ["--no-files", "--plots", "--package", str(package.folder)]
        done = CliRunner().invoke(app, ["train", "audit", str(folder / "manifest.csv"), *more])
        assert done.exit_code == 0, done.output
        report = json.loads((folder / AUDIT_FILE).read_text())
        assert report["copies"] is None
        assert report["blanked"][0]["images"] == sum(each == "test" for each in manifest(40)["split"])
        assert (folder / "audit_counts.png").stat().st_size > 5000
        assert (folder / "audit_augmented.png").stat().st_size > 5000


def test_the_sheet_of_a_runs_manifest_is_drawn_by_the_runs_recipe(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("training.plots.augmentation_sheet.plot_sheet", lambda *args, **_: said.append(args[3]))
    for name in ("run", "plain"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), film(1))
        frame = manifest(8).assign(path=str(tmp_path / name / "a.png"))
        write_manifest(frame, tmp_path / name / "manifest.csv")
    recipe = load_recipe("radiography-4class", ["pixels.size=32"])
    (tmp_path / "run" / "config.toml").write_text(tomlkit.dumps(recipe.to_document()))
    (tmp_path / "run" / "run.json").write_text("{}")
    for name in ("run", "plain"):
        done = CliRunner().invoke(
            app, ["train", "audit", str(tmp_path / name / "manifest.csv"), "--no-files", "--plots"]
        )
        assert done.exit_code == 0, done.output
    assert [title.partition(";")[0] for title in said] == ["recipe radiography-4class", "recipe default-finetune"]
