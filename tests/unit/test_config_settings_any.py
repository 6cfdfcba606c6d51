"""Whatever stands in the settings: settings that hold, or every fault in words, and no secret in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.settings import Settings, load_settings
from cxr.errors import SettingsError

SECRET = "hunter2-canary"
SECTIONS = sorted(Settings.model_fields)
KEYS = sorted({key for name in SECTIONS for key in getattr(Settings.model_fields[name].annotation, "model_fields", {})})

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "CXR", "0.0.0.0", "127.0.0.1", "::1", "10.0.0.0/8", "../..", "\0", "é", "1e400", SECRET]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from([*KEYS, "unknown"]), inner, max_size=4)
    ),
    max_leaves=12,
)
TREES = st.dictionaries(st.sampled_from([*SECTIONS, "unknown"]), VALUES, max_size=5)


def _loaded(**arguments: Any) -> Settings | None:
    try:
        return load_settings(**({"environ": {}} | arguments))
    except SettingsError as error:
        lines = str(error).splitlines()
        assert lines[0] == "The settings have faults:"
        assert len(lines) >= 3, "at least one fault, and what to do"
        return None


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))


@given(TREES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_tree_is_settings_or_faults(tree: dict[str, Any]) -> None:
    loaded = _loaded(flags=tree)
    if loaded is None:
        return
    # What holds once holds again, written out and read back.
    again = load_settings(environ={}, flags=json.loads(loaded.model_dump_json(exclude_none=True)))
    assert again.model_dump(exclude={"destinations"}) == loaded.model_dump(exclude={"destinations"})
    assert 1 <= loaded.listener.port <= 65535
    assert loaded.worker.lease_s >= 5


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(SECTIONS), st.sampled_from(KEYS)).map(lambda pair: f"CXR_{'__'.join(pair)}".upper()),
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30),
        max_size=5,
    )
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_environment_is_settings_or_faults(environment: dict[str, str]) -> None:
    _loaded(environ=environment)


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_file_is_settings_or_faults(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    _loaded(file=file)


@given(st.floats(), st.sampled_from(["acse_timeout_s", "dimse_timeout_s", "message_timeout_s", "idle_timeout_s"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_timeout_is_a_time(value: float, name: str) -> None:
    loaded = _loaded(flags={"listener": {name: value}})
    assert (loaded is not None) == (0 < value <= 86400)


@given(st.text(min_size=1, max_size=30).map(lambda text: SECRET + text), st.sampled_from(["password", "token"]))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_secret_is_in_no_message(secret: str, name: str) -> None:
    destination = {"name": "pacs", "kind": "dicom", "address": "nowhere", name: secret}
    with pytest.raises(SettingsError) as caught:
        load_settings(environ={}, flags={"destinations": [destination]})
    assert SECRET not in str(caught.value)
