"""`cxr init`: four answers make settings that load, and the files around them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.setup.answers import read_ae_title, read_results, read_sender
from app.setup.demo import demo_address
from config.settings import Settings, load_settings
from cxr.errors import SettingsError

RUNNER = CliRunner()


def init(folder: Path, *options: str, answers: str = "") -> tuple[int, str]:
    done = RUNNER.invoke(app, ["init", str(folder), *options], input=answers)
    return done.exit_code, done.output


def test_the_defaults_are_those_of_the_service(tmp_path: Path) -> None:
    code, said = init(tmp_path / "site", "--yes")
    assert code == 0, said
    settings = load_settings(tmp_path / "site" / "cxr.toml", environ={})
    assert settings == Settings(data_dir=tmp_path / "site" / "var")


def test_four_questions_are_asked_and_a_wrong_answer_is_asked_again(tmp_path: Path) -> None:
    answers = f"RESEARCH\nno network\nORTHANC@10.1.2.3\nORTHANC@10.1.2.3:4242\n{tmp_path / 'kept'}\n"
    code, said = init(tmp_path / "site", answers=answers)
    assert code == 0, said
    assert "A sender is written AET@ADDRESS" in said
    settings = load_settings(tmp_path / "site" / "cxr.toml", environ={})
    assert (settings.listener.ae_title, settings.listener.bind) == ("RESEARCH", "0.0.0.0")
    (peer,), (destination,) = settings.peers, settings.destinations
    assert (peer.ae_title, peer.network) == ("ORTHANC", "10.1.2.3/32")
    assert (destination.kind, destination.address) == ("dicom", "ORTHANC@10.1.2.3:4242")
    assert destination.from_peers == ("ORTHANC",)
    assert settings.data_dir == tmp_path / "kept"


def test_the_files_fit_the_answers(tmp_path: Path) -> None:
    site = tmp_path / "site of %h"
    init(
        site, "--yes", "--ae-title", "RESEARCH", "--sender", "ORTHANC@127.0.0.1", "--results", "ORTHANC@127.0.0.1:4243"
    )
    orthanc = json.loads((site / "orthanc" / "orthanc.json").read_text())
    assert (orthanc["DicomAet"], orthanc["DicomPort"]) == ("ORTHANC", 4243)
    assert orthanc["DicomModalities"] == {"cxr": ["RESEARCH", "127.0.0.1", 11112]}
    (script,) = orthanc["LuaScripts"]
    assert "~= 'RESEARCH'" in Path(script).read_text()
    for role in ("listen", "work"):
        unit = (site / "systemd" / f"cxr-{role}.service").read_text()
        (start,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
        assert start.endswith(f"/cxr --config {tmp_path}/site\\x20of\\x20%%h/cxr.toml {role}")
        assert f"ReadWritePaths={tmp_path}/site\\x20of\\x20%%h/var {tmp_path}/site\\x20of\\x20%%h/var.keys" in unit
        assert "StateDirectory" not in unit
        assert "/opt/cxr" not in unit
    assert (site / "var").stat().st_mode & 0o777 == 0o700


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "cxr.toml").write_text("# mine\n")
    code, _ = init(tmp_path, "--yes")
    assert code == 1  # a SettingsError; main() makes it 2
    assert (tmp_path / "cxr.toml").read_text() == "# mine\n"
    assert [path.name for path in tmp_path.iterdir()] == ["cxr.toml"]


@pytest.mark.parametrize(
    ("text", "kind", "address"),
    [
        ("PACS@pacs.example:104", "dicom", "PACS@pacs.example:104"),
        ("https://pacs.example/dicom-web", "stow", "https://pacs.example/dicom-web"),
        ("/srv/results", "folder", "/srv/results"),
    ],
)
def test_results_go_to_one_of_three_kinds(text: str, kind: str, address: str) -> None:
    results = read_results(text)
    assert results is not None
    assert (results.kind, results.address) == (kind, address)


@pytest.mark.parametrize("text", ["PACS@host", "@h:1", "https://user:secret@pacs.example/", "PACS@h:99999"])
def test_other_results_are_refused_in_words(text: str) -> None:
    with pytest.raises(SettingsError, match="Results go to"):
        read_results(text)


@pytest.mark.parametrize("text", ["", "none", "None"])
def test_no_sender_and_no_results(text: str) -> None:
    assert read_sender(text) is None
    assert read_results(text) is None


@pytest.mark.parametrize("text", ["PACS", "@10.0.0.1", "PACS@10.0.0.1/99", "A\\B@10.0.0.1", "X" * 17 + "@10.0.0.1"])
def test_other_senders_are_refused_in_words(text: str) -> None:
    with pytest.raises(SettingsError, match="A sender is written"):
        read_sender(text)


def test_an_ae_title_with_quotes_stays_one_string(tmp_path: Path) -> None:
    init(tmp_path / "site", "--yes", "--ae-title", 'A"B #1')
    assert tomllib.loads((tmp_path / "site" / "cxr.toml").read_text())["listener"]["ae_title"] == 'A"B #1'
    with pytest.raises(SettingsError, match="1 to 16"):
        read_ae_title("X" * 17)


def settings(**values: object) -> Settings:
    return Settings(**values)  # type: ignore[arg-type]  # pydantic checks


def test_the_demo_calls_with_a_title_that_is_let_in() -> None:
    assert demo_address(settings()).calling_ae_title == "CXRDEMO"
    peers = [{"ae_title": "FAR", "network": "10.0.0.0/8"}, {"ae_title": "NEAR", "network": "127.0.0.0/8"}]
    address = demo_address(settings(listener={"bind": "0.0.0.0", "port": 10404}, peers=peers))
    assert (address.calling_ae_title, address.host, address.port) == ("NEAR", "127.0.0.1", 10404)
    with pytest.raises(SettingsError, match="add one with its address"):
        demo_address(settings(listener={"bind": "0.0.0.0"}, peers=peers[:1]))
