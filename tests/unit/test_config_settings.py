"""Settings: layers, types, and every fault at once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.context import CommandContext, parse_overrides
from config.settings import Settings, load_settings, merge
from cxr.errors import SettingsError

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def toml(text: str) -> Path:
        file = tmp_path / "site.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return toml


def faults(**arguments: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(**({"environ": {}} | arguments))
    first, *found, last = str(caught.value).splitlines()
    assert first == "The settings have faults:"
    assert "cxr config example" in last
    return [line.strip() for line in found]


DEFAULTS: dict[str, dict[str, Any]] = {
    "listener": {
        "ae_title": "CXR", "check_called_ae_title": True, "bind": "127.0.0.1", "port": 11112,
        "secondary_capture": False,
        "accept_all_storage": False, "processes": 1, "max_associations": 50, "max_pdu_bytes": 128 * 1024,
        "max_object_mib": 256,
        "min_free_mib": 1024, "acse_timeout_s": 10, "dimse_timeout_s": 30, "message_timeout_s": 900,
        "idle_timeout_s": 60,
        "drain_timeout_s": 20,
        "tls": {
            "port": None, "certificate": None, "key": None, "ca": None, "required": False, "handshake_timeout_s": 10
        },
        "commitment": {"enabled": True, "keep_days": 30, "report_on": "same"},
    },
    "view": {"unknown": "hold", "pixels": "hold", "model": None},
    "worker": {
        "device": "auto", "runtime": "tensorflow", "default_model": "covid19", "batch_size": 0, "decode_processes": 0,
        "decode_timeout_s": 60, "max_megapixels": 64, "poll_s": 0.1, "lease_s": 120, "max_attempts": 3, "retry_s": 30,
        "shadow_timeout_s": 30,
    },
    "gates": {"auc_low": 0.6, "ece": 0.1, "subgroup_auc": 0.55, "blanked_auc": 0.6},
    "report": {"title": "research", "saliency": False, "deliver_untrained": False},
    "delivery": {"retry_first_s": 10, "retry_max_s": 3600, "give_up_after_h": 7 * 24, "lease_s": 120},
    "retention": {"pixels_days": 30, "results_days": 365, "quarantine_days": 30, "low_space_mib": 4096},
    "rebuild": {
        "cron": None, "time_zone": "UTC", "labels": None, "columns": [], "words": [], "positive": "covid19",
        "date_format": "", "days": 2,
        "images": None, "manifest": None, "recipe": "default-finetune", "overrides": [], "start": None,
        "runs_dir": None,
        "min_new_images": 100, "compare_with_active": True, "processes": 1, "nice": 15, "max_attempts": 5,
    },
    "audit": {
        "key_file": None, "identifiers": "full", "pseudonym_key_file": None, "snapshot_every_s": 60,
        "backup_at": "02:30", "backup_keep": 7
    },
    "log": {"level": "info", "format": "auto"},
    "metrics": {"bind": "127.0.0.1", "listener_port": None, "worker_port": None},
}  # fmt: skip
"""A site that sets nothing relies on these: changing one is a decision, whatever the generated page then says."""


def test_defaults_are_those_of_the_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={}).model_dump(mode="json")
    assert settings == DEFAULTS | {"data_dir": "var", "peers": [], "destinations": []}


def test_a_peer_and_a_destination_have_the_defaults_of_the_design(write: Write) -> None:
    file = write(
        "[[peers]]\nae_title = 'A'\nnetwork = '10.0.0.0/8'\n"
        "[[destinations]]\nname = 'd'\nkind = 'folder'\naddress = '/tmp'\n"
    )
    settings = load_settings(file, environ={})
    (peer,), (destination,) = settings.peers, settings.destinations
    assert peer.model_dump(exclude={"ae_title", "network"}, exclude_none=True) == {}
    assert destination.model_dump(exclude={"name", "kind", "address"}, exclude_none=True) == {
        "from_peers": (), "verify": "auto", "verify_after_s": 2, "timeout_s": 30, "tls": False,
    }  # fmt: skip


def test_flags_over_environment_over_file_over_default(write: Write) -> None:
    file = write("[listener]\nport = 1001\nae_title = 'FILE'\nbind = '::1'\n[worker]\nbatch_size = 3\n")
    environ = {"CXR_LISTENER__PORT": "1002", "CXR_LISTENER__AE_TITLE": "ENV"}
    settings = load_settings(file, environ, {"listener": {"port": 1003}})
    assert settings.listener.port == 1003
    assert settings.listener.ae_title == "ENV"
    assert settings.listener.bind == "::1"
    assert settings.worker.batch_size == 3
    assert settings.worker.poll_s == 0.1


def test_the_file_is_named_by_flag_else_environment_else_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, port in {"cxr.toml": 1001, "env.toml": 1002, "flag.toml": 1003}.items():
        (folder / name).write_text(f"[listener]\nport = {port}\n")
    assert load_settings(environ={}).listener.port == 1001
    environ = {"CXR_CONFIG": str(folder / "env.toml")}
    assert load_settings(environ=environ).listener.port == 1002
    assert load_settings(Path("flag.toml"), environ).listener.port == 1003


def test_the_process_s_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXR_WORKER__DEVICE", "cpu")
    monkeypatch.setenv("CXR_REQUIRE_PEERS", "1")  # the test suite's own, not a setting
    assert load_settings().worker.device == "cpu"


def test_lists_and_tables_come_as_json_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {
        "CXR_PEERS": json.dumps([{"ae_title": "PACS", "network": "10.1.2.3"}]),
        "CXR_DESTINATIONS": json.dumps(
            [{"name": "pacs", "kind": "dicom", "address": "PACS@10.1.2.3:104", "from_peers": ["PACS"]}]
        ),
        "CXR_LISTENER": json.dumps({"bind": "0.0.0.0"}),
        "CXR_LISTENER__TLS__HANDSHAKE_TIMEOUT_S": "2.5",
        "cxr_listener__port": "104",
    }
    settings = load_settings(environ=environ)
    assert settings.peers[0].network == "10.1.2.3/32"
    assert settings.destinations[0].dicom_address() == ("PACS", "10.1.2.3", 104)
    assert (settings.listener.bind, settings.listener.port) == ("0.0.0.0", 104)
    assert settings.listener.tls.handshake_timeout_s == 2.5


def test_every_fault_of_every_source_is_reported_at_once(write: Write) -> None:
    file = write('[listener]\nport = 99999\nprot = 1\nbind = "0.0.0.0"\n[viewer]\nx = 1\n')
    environ = {
        "CXR_FOO": "1",
        "CXR_PEERS": "not json",
        "CXR_WORKER__DEVICE": "tpu",
        "CXR_LISTENER__MAX_ASOCIATIONS": "5",
    }
    found = faults(file=file, environ=environ, flags={"log": {"level": "loud"}})
    expected = [
        ("CXR_FOO", "no such setting"),
        ("CXR_PEERS", "JSON"),
        ("listener.port", f"less than or equal to 65535; received 99999 (in the settings file {file})"),
        ("listener.prot", f"did you mean 'port'? (in the settings file {file})"),
        ("listener.max_asociations", "did you mean 'max_associations'? (in the environment)"),
        ("viewer", "did you mean 'view'?"),
        ("worker.device", "received 'tpu' (in the environment)"),
        ("log.level", "received 'loud' (in the command line)"),
        ("listener.bind", "no [[peers]] entry"),
    ]
    for setting, text in expected:
        assert any(line.startswith(setting) and text in line for line in found), (setting, text, found)
    assert len(found) == len(expected)


def test_a_broken_file_does_not_hide_the_faults_of_the_environment(write: Write) -> None:
    found = faults(file=write("port = ["), environ={"CXR_LISTENER__PORT": "many"})
    assert len(found) == 2
    assert "not valid TOML" in found[0]
    assert "listener.port" in found[1]


def test_a_file_that_is_named_and_absent_is_a_fault_that_names_it(tmp_path: Path) -> None:
    (found,) = faults(file=tmp_path / "absent.toml")
    assert "No such file" in found
    assert str(tmp_path / "absent.toml") in found


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbf[listener]\nport = 104\n")
    assert load_settings(tmp_path / "bom.toml", environ={}).listener.port == 104


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("data_dir = 3", "data_dir: accepted is a path, as text in quotes; received 3"),
        ("[[peers]]\nae_title = 'PACS'", "peers.0.network: this setting is required"),
        ("[listener]\nport = 'many'", "listener.port: accepted is a whole number; received 'many'"),
        ("[listener]\nsecondary_capture = 'perhaps'", "accepted is true or false; received 'perhaps'"),
        ("listener = 3", "listener: accepted is a table of settings; received 3"),
    ],
)
def test_faults_are_in_words_of_people_and_not_of_a_library(write: Write, toml: str, text: str) -> None:
    (found,) = faults(file=write(toml), environ={})
    assert text in found
    assert not re.search(r"class '|Value error|Field required|Input should", found)


def test_a_file_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00")
    (found,) = faults(file=tmp_path / "bad.toml")
    assert "UTF-8" in found


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("[listener]\nae_title = 'MORE THAN SIXTEEN'", "1 to 16 printable"),
        ("[listener]\nae_title = 'A\\B'", "no backslash"),
        ("[listener]\nae_title = '  '", "1 to 16 printable"),
        ("[[peers]]\nae_title = 'A'\nnetwork = '10.0.0.0/99'", "peers.0.network"),
        ("[audit]\nbackup_at = '25:00'", "HH:MM"),
        ("[worker]\ndevice = 'gpu'", "worker.device"),
        ("[listener.tls]\nport = 2762", "listener.tls.certificate"),
        ("[listener]\nbind = '192.0.2.1'", "no [[peers]] entry"),
        ("[metrics]\nworker_port = 11112", "listener.port and metrics.worker_port are the same port"),
        (
            "[listener]\nprocesses = 3\n[metrics]\nlistener_port = 9100\nworker_port = 9102",
            "metrics.listener_port and metrics.worker_port are the same port, 9102",
        ),
        (
            "[listener]\nprocesses = 2\n[metrics]\nlistener_port = 65535",
            "metrics.listener_port leaves no port for each of 2 listening processes",
        ),
        ("data_dir = 7", "data_dir"),
    ],
)
def test_one_fault(write: Write, toml: str, text: str) -> None:
    (found,) = faults(file=write(toml))
    assert text in found


def destination(**keys: Any) -> str:
    return "[[destinations]]\n" + "\n".join(
        f"{key} = {json.dumps(value)}"
        for key, value in ({"name": "a", "kind": "stow", "address": "http://h/"} | keys).items()
    )


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"kind": "dicom", "address": "PACS@host"}, 'accepted is "AET@host:port"'),
        ({"kind": "dicom", "address": "host:104"}, 'accepted is "AET@host:port"'),
        ({"kind": "dicom", "address": "PACS@host:70000"}, 'accepted is "AET@host:port"'),
        ({"address": "ftp://h/"}, "http:// or https://"),
        ({"address": "https://"}, "http:// or https://"),
        ({"address": "https://me:SECRET@h/"}, "no user in it"),
        ({"name": "Not A Name"}, "destinations.0.name"),
        ({"kind": "mail"}, "destinations.0.kind"),
        ({"kind": "folder", "address": "/x", "token": "SECRET"}, "for kind stow only"),
        ({"username": "me"}, "go together"),
        ({"username": "me", "password": "SECRET", "token": "SECRET"}, "either token"),
        ({"kind": "dicom", "address": "A@h:1", "tls_key": "k.pem"}, "go together"),
        ({"password": ["SECRET"]}, "destinations.0.password"),
        ({"token": 31415926}, "destinations.0.token"),
        ({"pasword": "SECRET"}, "did you mean 'password'?"),
    ],
)
def test_faults_of_a_destination_show_no_secret(write: Write, keys: dict[str, Any], text: str) -> None:
    (found,) = faults(file=write(destination(**keys)))
    assert text in found
    assert "SECRET" not in found
    assert "31415926" not in found


def test_destinations_as_one_text_show_no_secret() -> None:
    found = faults(environ={"CXR_DESTINATIONS": '{"password": "SECRET"'})
    assert "SECRET" not in "".join(found)
    found = faults(flags={"destinations": "name=x,password=SECRET"})
    assert "SECRET" not in "".join(found)


def test_a_secret_is_not_in_the_settings_own_text(write: Write) -> None:
    settings = load_settings(write(destination(username="me", password="SECRET")), {})
    assert "SECRET" not in repr(settings)
    assert settings.destinations[0].password is not None
    assert settings.destinations[0].password.get_secret_value() == "SECRET"


def test_from_peers_names_configured_peers(write: Write) -> None:
    text = destination(from_peers=["PACS", "OTHER"])
    peers = "\n[[peers]]\nae_title = 'PACS'\nnetwork = '10.0.0.0/8'\n"
    (found,) = faults(file=write(text + peers))
    assert "from_peers of destination 'a' has no [[peers]] entry: OTHER" in found
    # Without [[peers]] anyone on loopback may send, under any title.
    assert load_settings(write(text), {}).destinations[0].from_peers == ("PACS", "OTHER")


def test_destinations_have_names_of_their_own(write: Write) -> None:
    (found,) = faults(file=write(destination() + "\n" + destination()))
    assert "two [[destinations]] have the name 'a'" in found


def test_ipv6_destinations() -> None:
    flags = {"destinations": [{"name": "a", "kind": "dicom", "address": "PACS@[2001:db8::1]:104"}]}
    assert load_settings(environ={}, flags=flags).destinations[0].dicom_address() == ("PACS", "2001:db8::1", 104)


def test_settings_are_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    with pytest.raises(ValueError, match="frozen"):
        settings.listener.port = 1  # type: ignore[misc]


def test_the_key_of_the_chain_is_outside_the_database_s_folder() -> None:
    settings = Settings(data_dir=Path("/srv/cxr"))
    assert settings.database_path.parent == Path("/srv/cxr")
    assert Path("/srv/cxr") not in settings.audit_key_path.parents


def test_merge_lays_tables_over_tables_and_replaces_the_rest() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 1}
    assert merge(base, {"a": {"c": [2]}, "e": 2}) == {"a": {"b": 1, "c": [2]}, "d": 1, "e": 2}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 1}


def test_a_command_s_context_reads_its_file_with_flags_over_it(write: Write) -> None:
    file = write("[listener]\nport = 1001\n[worker]\nbatch_size = 2\n")
    context = CommandContext(config_file=file, overrides=parse_overrides(["listener.port=1002"]))
    assert context.settings().listener.port == 1002
    settings = context.settings({"listener": {"port": 1003}})
    assert (settings.listener.port, settings.worker.batch_size) == (1003, 2)
