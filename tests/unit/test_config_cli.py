"""`cxr config`, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from config.checks import check_start, faults_at_start, mode_notes
from config.example import MASK, example_toml, settings_page, settings_toml
from config.settings import AuditSettings, Settings, load_settings
from cxr.errors import SettingsError

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cxr(tmp_path: Path) -> Run:
    """Run the command as a process of its own: exit codes and what stands on which stream."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "app", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)

    return run


def said(*arguments: str) -> str:
    """Run the command in this process, which is quicker, and return what it printed."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def site(folder: Path, text: str) -> str:
    file = folder / "site.toml"
    file.write_text(text)
    return str(file)


SECRET = """
[[destinations]]
name = "web"
kind = "stow"
address = "https://pacs.example/dicom-web"
username = "me"
password = "SECRET"
"""


def test_show_prints_what_is_in_use_and_masks_secrets(cxr: Run, tmp_path: Path) -> None:
    done = cxr("--config", site(tmp_path, SECRET), "--set", "listener.port=104", "config", "show")
    assert done.returncode == 0
    assert "SECRET" not in done.stdout + done.stderr
    shown = tomllib.loads(done.stdout)
    assert shown["listener"]["port"] == 104
    assert shown["destinations"][0]["password"] == MASK
    assert shown["destinations"][0]["username"] == "me"


def test_show_as_json(tmp_path: Path) -> None:
    shown = json.loads(said("--config", site(tmp_path, SECRET), "config", "show", "--json"))
    assert shown["destinations"][0]["password"] == MASK
    assert shown["listener"]["tls"]["port"] is None


def test_check_without_faults(cxr: Run) -> None:
    done = cxr("config", "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "The settings have no faults.\n", "")


PACS = '[[destinations]]\nname = "pacs"\nkind = "dicom"\naddress = "PACS@127.0.0.1:104"\n'
PEER = '[[peers]]\nae_title = "{}"\nnetwork = "127.0.0.0/8"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PACS + PEER.format("PACS"), ('from_peers = ["PACS"]', "only destination")),
        (PACS, ('from_peers = ["PACS"]', "only destination")),
        (PACS + PACS.replace("pacs", "other").replace("PACS", "OTHER") + PEER.format("PACS"), ('["PACS"]',)),
    ],
)
def test_check_says_which_sender_gets_no_results(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    told = said("--config", site(tmp_path, text), "config", "check")
    assert "no faults" in told
    assert all(word in " ".join(told.split()) for word in words)
    assert '["OTHER"]' not in told


@pytest.mark.parametrize("text", [PACS + 'from_peers = ["PACS"]\n', PACS + PEER.format("CT"), PEER.format("PACS")])
def test_check_has_nothing_more_to_say_where_results_go(tmp_path: Path, text: str) -> None:
    assert said("--config", site(tmp_path, text), "config", "check").strip() == "The settings have no faults."


def test_check_reports_all_faults_with_exit_code_2(cxr: Run, tmp_path: Path) -> None:
    done = cxr("--config", site(tmp_path, "[listener]\nport = 0\nbind = '0.0.0.0'\nx = 1\n"), "config", "check")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert all(text in done.stderr for text in ("listener.port", "listener.x", "[[peers]]"))


def test_check_looks_at_the_files_that_settings_name(tmp_path: Path) -> None:
    text = "[[destinations]]\nname = 'out'\nkind = 'folder'\naddress = 'nowhere'\n"
    result = CliRunner().invoke(app, ["--config", site(tmp_path, text), "config", "check"])
    assert isinstance(result.exception, SettingsError)  # which the command turns into exit code 2
    assert "destinations (out).address" in str(result.exception)


def test_check_looks_at_folders_that_are_yet_to_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder can be made in here")
    inside = tmp_path / "file" / "var"
    assert faults_at_start(Settings(data_dir=tmp_path / "new" / "var")) == ()
    faults = faults_at_start(Settings(data_dir=inside))
    assert [fault.split(":")[0] for fault in faults] == ["data_dir", "audit.key_file"]
    audit = AuditSettings(key_file=inside / "audit.key")
    assert [fault.split(":")[0] for fault in faults_at_start(Settings(data_dir=tmp_path, audit=audit))] == [
        "audit.key_file"
    ]
    assert not (tmp_path / "new").exists()


def test_example_is_a_settings_file_with_every_default(tmp_path: Path) -> None:
    assert load_settings(Path(site(tmp_path, said("config", "example"))), {}) == Settings()


def every_setting(model: Any = Settings, above: str = "") -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            names += every_setting(inner, f"{above}{name}.")
        elif getattr(inner, "__args__", None) and hasattr(inner.__args__[0], "model_fields"):
            names += every_setting(inner.__args__[0], f"{above}{name}.")
        else:
            names.append(f"{above}{name}")
    return names


def uncommented(text: str) -> str:
    """Take the comment signs off settings and list entries, and give absent ones some value."""
    lines = []
    for line in text.splitlines():
        bare = line.removeprefix("# ").removeprefix("# ")
        is_setting = bare.startswith("[[") or (" = " in bare and bare.split(" = ")[0].isidentifier())
        lines.append(bare.replace("= ...", '= "x"') if is_setting else line)
    return "\n".join(lines)


def test_example_and_page_name_every_setting_with_its_meaning() -> None:
    names = every_setting()
    assert len(names) > 60
    table = tomllib.loads(uncommented(example_toml()))
    page = settings_page()
    for name in names:
        value: Any = table
        for part in name.split("."):
            value = value[0] if isinstance(value, list) else value
            assert part in value, name
            value = value[part]
        assert f"| `{name.split('.')[-1]}` |" in page, name


def test_every_setting_has_a_meaning() -> None:
    models: list[Any] = [Settings]
    while models:
        for name, field in models.pop().model_fields.items():
            inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
            models += (tables := [it for it in inner if hasattr(it, "model_fields")])
            assert field.description or tables, name


def test_the_settings_page_is_the_generated_one(root: Path) -> None:
    page = (root / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_page(), "renew it: cxr config example --markdown > docs/settings.md"


def test_the_page_comes_from_the_command() -> None:
    assert said("config", "example", "--markdown") == settings_page()


def test_shown_settings_load_again_as_the_same(tmp_path: Path) -> None:
    text = (
        "data_dir = '/srv/Röntgen \"x\"'\n[[peers]]\nae_title = 'A'\nnetwork = '10.0.0.0/8'\n"
        "[[destinations]]\nname = 'b'\nkind = 'dicom'\naddress = 'B@h:1'\nfrom_peers = ['A']\n"
    )
    settings = load_settings(Path(site(tmp_path, text)), {})
    assert load_settings(Path(site(tmp_path, settings_toml(settings))), {}) == settings


@pytest.mark.parametrize("verb", ["show", "check", "example"])
def test_each_verb_has_help_with_an_example(verb: str) -> None:
    assert "Example: cxr" in said("config", verb, "--help")


# Files and folders of this machine


@pytest.fixture
def tls(tmp_path: Path) -> dict[str, Any]:
    for name in ("certificate.pem", "key.pem"):
        (tmp_path / name).write_text("-----BEGIN-----\n")
    (tmp_path / "key.pem").chmod(0o600)
    return {"port": 2762, "certificate": tmp_path / "certificate.pem", "key": tmp_path / "key.pem"}


def with_tls(tls: dict[str, Any]) -> Settings:
    return load_settings(environ={}, flags={"listener": {"tls": tls}})


def test_a_private_key_is_its_owner_s_alone(tls: dict[str, Any]) -> None:
    assert faults_at_start(with_tls(tls)) == ()
    check_start(with_tls(tls))
    for mode in (0o640, 0o604, 0o620):
        tls["key"].chmod(mode)
        (found,) = faults_at_start(with_tls(tls))
        assert found.startswith("listener.tls.key: others can read or write this private key")
        assert f"{mode:04o}" in found
        with pytest.raises(SettingsError, match=r"listener\.tls\.key"):
            check_start(with_tls(tls))


def test_files_that_are_not_there_are_all_named_without_their_paths(tls: dict[str, Any], tmp_path: Path) -> None:
    tls["certificate"].unlink()
    tls["key"].unlink()
    found = faults_at_start(with_tls(tls | {"ca": tmp_path / "ca.pem"}))
    assert [fault.split(":")[0] for fault in found] == [
        "listener.tls.certificate",
        "listener.tls.ca",
        "listener.tls.key",
    ]
    assert str(tmp_path) not in "".join(found)


def test_without_a_tls_port_its_files_do_not_matter(tls: dict[str, Any]) -> None:
    tls["key"].unlink()
    assert faults_at_start(with_tls(tls | {"port": None})) == ()


def test_a_destination_s_folder_and_keys_are_looked_at(tmp_path: Path) -> None:
    key = tmp_path / "client.pem"
    key.write_text("-----BEGIN-----\n")
    key.chmod(0o644)
    out = {"name": "out", "kind": "folder", "address": str(tmp_path / "out")}
    pacs = {"name": "pacs", "kind": "dicom", "address": "P@h:1", "tls": True, "tls_certificate": key, "tls_key": key}
    settings = load_settings(environ={}, flags={"destinations": [out, pacs]})
    found = faults_at_start(settings)
    assert [fault.split(":")[0] for fault in found] == ["destinations (out).address", "destinations (pacs).tls_key"]
    (tmp_path / "out").mkdir()
    key.chmod(0o400)
    assert faults_at_start(settings) == ()


def test_the_audit_key_and_the_data_folder_are_looked_at(tmp_path: Path) -> None:
    key = tmp_path / "audit.key"
    flags = {"audit": {"key_file": key}, "data_dir": tmp_path / "data"}
    settings = load_settings(environ={}, flags=flags)
    assert faults_at_start(settings) == ()  # both are made at the first start
    key.write_text("k")
    key.chmod(0o644)
    (tmp_path / "data").write_text("not a folder")
    assert [fault.split(":")[0] for fault in faults_at_start(settings)] == ["audit.key_file", "data_dir"]


@pytest.fixture
def kept(tmp_path: Path) -> Settings:
    """An installation with the files that a start makes, with the modes that it gives them."""
    settings = load_settings(environ={}, flags={"data_dir": tmp_path / "data"})
    for folder in (settings.data_dir, settings.audit_key_path.parent):
        folder.mkdir(mode=0o700)
    for name in ("", "-wal", "-shm", "-journal"):
        settings.database_path.with_name(f"audit.sqlite{name}").touch(mode=0o600)
    settings.audit_heads_path.touch(mode=0o600)
    return settings


@pytest.mark.parametrize("mode", [0o640, 0o644, 0o604, 0o620, 0o666])
@pytest.mark.parametrize(
    "name", ["data/audit.sqlite", "data/audit.sqlite-wal", "data/audit.sqlite-shm", "data/audit.sqlite-journal",
             "data.keys/audit.heads"],
)  # fmt: skip
def test_a_database_that_others_can_read_is_refused_with_the_command_that_mends_it(
    kept: Settings, name: str, mode: int
) -> None:
    assert faults_at_start(kept) == ()
    path = kept.data_dir.parent / name
    path.chmod(mode)
    (fault,) = faults_at_start(kept)
    assert f"{path.name} (mode {mode:04o})" in fault
    subprocess.run(fault.rpartition(": ")[2], shell=True, check=True)
    assert faults_at_start(kept) == ()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
@pytest.mark.parametrize("name", ["data", "data.keys"])
def test_a_folder_in_which_others_can_replace_the_files_is_refused(kept: Settings, name: str, mode: int) -> None:
    folder = kept.data_dir.parent / name
    folder.chmod(mode)
    (fault,) = faults_at_start(kept)
    assert f"{name} (mode {mode:04o})" in fault
    subprocess.run(fault.rpartition(": ")[2], shell=True, check=True)
    assert faults_at_start(kept) == ()


def test_a_folder_that_others_can_look_into_is_said_and_not_refused(kept: Settings) -> None:
    assert list(mode_notes(kept)) == []
    kept.data_dir.chmod(0o755)
    assert faults_at_start(kept) == ()
    (note,) = mode_notes(kept)
    assert note.endswith(f"chmod 700 {kept.data_dir}")
    kept.data_dir.chmod(0o1777)  # sticky: others can't replace our files
    assert faults_at_start(kept) == ()
