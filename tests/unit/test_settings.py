"""Settings, API keys and ports: errors name the setting and say what is expected."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import ports, settings


def _load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> settings.Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return settings.load()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = _load(
        monkeypatch, VISITOR_HTTP_PORT="8099", VISITOR_KAFKA_SASL_USERNAME="u", VISITOR_DEV_KAFKA_PORT="9099"
    )
    assert (loaded.http.port, loaded.kafka.sasl_username, loaded.dev.kafka_port) == (8099, "u", 9099)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VISITOR_HTTP_PORT", "http", "VISITOR_HTTP_PORT: input should be a valid integer"),
        ("VISITOR_HTTP_PORT", "0", "VISITOR_HTTP_PORT: input should be greater than or equal to 1"),
        ("VISITOR_HTP_PORT", "1", "did you mean VISITOR_HTTP_PORT?"),
        ("VISITOR_LOG_LEVEL", "loud", "VISITOR_LOG_LEVEL: input should be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_the_error_about_a_wrong_setting_names_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    with pytest.raises(settings.WrongSetting, match="VISITOR_") as refused:
        _load(monkeypatch, **{name: value})
    assert message in str(refused.value)


@pytest.mark.parametrize("variables", [{"VISITOR_WORKER_INBOX_DAYS": "8"}, {"VISITOR_KAFKA_RETENTION_DAYS": "14"}])
def test_an_inbox_that_keeps_entries_shorter_than_kafka_keeps_requests_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    with pytest.raises(settings.WrongSetting) as refused:
        _load(monkeypatch, **variables)
    assert "VISITOR_WORKER_INBOX_DAYS" in str(refused.value)
    assert "VISITOR_KAFKA_RETENTION_DAYS" in str(refused.value)


def test_a_protocol_for_traces_that_the_service_does_not_speak_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert _load(monkeypatch)  # Nothing is exported.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    with pytest.raises(settings.WrongSetting, match="OTEL_EXPORTER_OTLP_PROTOCOL is grpc"):
        _load(monkeypatch)


def test_scripts_of_all_origins_need_api_keys_or_tokens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert _load(monkeypatch, VISITOR_HTTP_CORS_ORIGINS="http://localhost:3000").http.allowed_origins
    monkeypatch.setenv("VISITOR_HTTP_CORS_ORIGINS", "*")
    with pytest.raises(settings.WrongSetting, match="VISITOR_HTTP_KEYS"):
        settings.load()
    assert _load(monkeypatch, VISITOR_HTTP_KEYS=str(tmp_path)).http.allowed_origins == ["*"]


def test_an_inbox_that_keeps_entries_longer_than_kafka_keeps_requests_is_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = _load(monkeypatch, VISITOR_KAFKA_RETENTION_DAYS="14", VISITOR_WORKER_INBOX_DAYS="15.1")
    assert (loaded.kafka.retention_days, loaded.worker.inbox_days) == (14, 15.1)


def test_the_error_about_an_occupied_port_names_its_setting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(ports.PortTaken, match="VISITOR_HTTP_PORT"):
            ports.ensure_free("127.0.0.1", listener.getsockname()[1], "VISITOR_HTTP_PORT")


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISITOR_SCHEMA_REGISTRY_URL", "")
    monkeypatch.setenv("VISITOR_WORKER_INBOX_DAYS", "")
    loaded = settings.load()
    assert (loaded.schema_registry.url, loaded.worker.inbox_days) == (None, 9)


def test_a_health_probe_imports_neither_the_operations_nor_drivers() -> None:
    code = "import sys; sys.argv[1:] = ['health']; import runtime.cli; runtime.cli.app(standalone_mode=False)"
    code += "; sys.stderr.write(' '.join(sys.modules))"
    probe = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    slow = {"agents.catalogue", "starlette", "faust", "aiokafka", "sqlalchemy", "asyncpg", "fastavro", "httpx"}
    assert "does not answer" in probe.stdout
    assert "urllib.request" in probe.stderr.split()
    assert slow & set(probe.stderr.split()) == set()


def test_the_docs_list_all_settings_with_defaults_and_meanings() -> None:
    rows = [
        f"| `{name}` | {f'`{setting.default}`' if setting.default else ''} | {setting.meaning} |"
        for name, setting in settings.known().items()
    ]
    table = "\n".join(["| variable | default | meaning |", "| --- | --- | --- |", *rows])
    assert table in (Path(__file__).parents[2] / "docs" / "settings.md").read_text(), f"expected this table:\n{table}"
