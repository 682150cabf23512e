"""Twin of gateway/config/environment.py."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.config.environment import Environment, load_dotenv, most_verbose, read_environment
from gateway.config.model import Secret


def test_an_empty_environment_gives_the_defaults() -> None:
    """Without any variable the gateway listens on 0.0.0.0:4000 and keeps its state in .penstock."""
    environment = read_environment({})
    assert environment == Environment()
    assert (environment.host, environment.port, environment.data_dir) == ("0.0.0.0", 4000, Path(".penstock"))


@pytest.mark.parametrize(
    ("environ", "field", "value"),
    [
        ({"HOST": "::1"}, "host", "::1"),
        ({"HOST": "::1", "LITELLM_HOST": "127.0.0.1"}, "host", "127.0.0.1"),
        ({"HOST": "::1", "LITELLM_HOST": ""}, "host", "::1"),
        ({"PORT": "8080"}, "port", 8080),
        ({"PORT": "8080", "LITELLM_PORT": " 9090 "}, "port", 9090),
        ({"LITELLM_MASTER_KEY": " dev-key "}, "master_key", Secret("dev-key")),
        ({"LITELLM_LOG": "warn"}, "log_level", "WARNING"),
        ({"LITELLM_LOG": "ERROR", "LITELLM_LOG_LEVEL": "info"}, "log_level", "INFO"),
        ({"LITELLM_LOG": "ERROR", "LITELLM_DEBUG": "true"}, "log_level", "DEBUG"),
        ({"LITELLM_LOG": "ERROR", "LITELLM_DEBUG": "false", "DEBUG": "app:*"}, "log_level", "ERROR"),
        ({"DETAILED_DEBUG": "1"}, "log_level", "DEBUG"),
        ({"JSON_LOGS": "true"}, "json_logs", True),
        ({"PENSTOCK_DATA_DIR": "/data"}, "data_dir", Path("/data")),
        ({"CONFIG_FILE_PATH": "/app/config.yaml"}, "config_path", Path("/app/config.yaml")),
        ({"LITELLM_CORS_ORIGINS": "https://a, https://b"}, "allowed_origins", ("https://a", "https://b")),
        ({"LITELLM_CORS_ALLOW_CREDENTIALS": "yes"}, "cors_allow_credentials", True),
        ({"PENSTOCK_DRAIN_DELAY": "5", "PENSTOCK_DRAIN_TIMEOUT": "30.5"}, "drain_timeout", 30.5),
        ({"PENSTOCK_REDIS_TIMEOUT": "0.2"}, "redis_timeout", 0.2),
        ({}, "redis_timeout", 0.05),
        ({"NUM_WORKERS": "4"}, "num_workers", 4),
        ({"NUM_WORKERS": ""}, "num_workers", 1),
        ({"DATABASE_URL": "postgres://u:p@h/d", "POSTGRES_HOST": "x"}, "database_url", Secret("postgres://u:p@h/d")),
        (
            {"POSTGRES_USER": "u", "POSTGRES_PASSWORD": "p@ss/w", "POSTGRES_HOST": "h", "POSTGRES_PORT": "5432", "POSTGRES_LITELLM_DB": "d"},
            "database_url",
            Secret("postgresql://u:p%40ss%2Fw@h:5432/d"),
        ),
        (
            {"DATABASE_HOST": "h", "DATABASE_USERNAME": "u", "DATABASE_NAME": "d"},
            "database_url",
            Secret("postgresql://u@h/d"),
        ),
        ({"POSTGRES_HOST": "h"}, "database_url", None),
        ({"REDIS_HOST": "redis", "REDIS_PORT": "6379", "REDIS_PASSWORD": ""}, "redis_url", Secret("redis://redis:6379")),
        ({"REDIS_HOST": "fd00::1", "REDIS_PASSWORD": "p w", "REDIS_SSL": "true"}, "redis_url", Secret("rediss://:p%20w@[fd00::1]")),
        ({"REDIS_HOST": "redis", "REDIS_URL": "redis://other"}, "redis_url", Secret("redis://other")),
    ],
)  # fmt: skip
def test_variables_and_their_precedence(environ: dict[str, str], field: str, value: Any) -> None:
    """Each variable is honoured, and of two for one thing the documented one wins."""
    assert getattr(read_environment(environ), field) == value


@pytest.mark.parametrize(
    ("environ", "severity", "line"),
    [
        ({"PORT": "http"}, "error", 'environment: PORT must be a port (1 to 65535), not "http"'),
        ({"LITELLM_PORT": "70000"}, "error", 'environment: LITELLM_PORT must be a port (1 to 65535), not "70000"'),
        ({"PENSTOCK_DRAIN_DELAY": "x"}, "error", 'environment: PENSTOCK_DRAIN_DELAY must be a number of seconds, not "x"'),
        ({"NUM_WORKERS": "0"}, "error", 'environment: NUM_WORKERS must be a number of processes (1 to 256), not "0"'),
        ({"LITELLM_MASTER_KEY": ""}, "warning", "environment: LITELLM_MASTER_KEY is empty, which counts as not set"),
        ({"LITELLM_LOG": "loud"}, "warning", 'environment: LITELLM_LOG must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, not "LOUD"'),
        ({"JSON_LOGS": "maybe"}, "warning", 'environment: JSON_LOGS must be true or false, not "maybe"'),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, "notice", "environment: OTEL_EXPORTER_OTLP_ENDPOINT has no effect yet: no traces are sent"),
        ({"OTEL_SERVICE_NAME": "gateway"}, "notice", "environment: OTEL_SERVICE_NAME has no effect yet: no traces are sent"),
        ({"LANGFUSE_HOST": "http://x"}, "notice", "environment: LANGFUSE_HOST has no effect yet: no traces are sent"),
        ({"REDIS_CLUSTER_NODES": "[]"}, "notice", "environment: REDIS_CLUSTER_NODES has no effect yet: Redis is what REDIS_URL or REDIS_HOST names"),
        ({"SSL_KEYFILE_PATH": "/key.pem"}, "error", "environment: SSL_KEYFILE_PATH: TLS is ended by the reverse proxy; serving it is not available"),
        ({"SSL_CERT_FILE": "/no/ca.pem"}, "warning", "environment: SSL_CERT_FILE names no file that can be read (No such file or directory): certificates of providers may not be trusted"),
        ({"SSL_CERT_FILE": ""}, "warning", "environment: SSL_CERT_FILE names no file that can be read (its name is empty): certificates of providers may not be trusted"),
        ({"SSL_CERTFILE_PATH": "/cert.pem"}, "error", "environment: SSL_CERTFILE_PATH: TLS is ended by the reverse proxy; serving it is not available"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_environment_is_told(
    environ: dict[str, str], severity: str, line: str
) -> None:
    """A bad variable is named, and a known one without effect too."""
    problems = read_environment(environ).problems
    assert [(problem.severity, str(problem)) for problem in problems] == [(severity, line)]


def test_authorities_that_can_be_read(tmp_path: Path) -> None:
    """There is nothing to tell of a file that is there."""
    (tmp_path / "ca.pem").write_text("")
    assert read_environment({"SSL_CERT_FILE": str(tmp_path / "ca.pem")}).problems == ()


def test_no_secret_of_the_environment_is_printable() -> None:
    """The struct prints neither the master key nor passwords in URLs."""
    environ = {
        "LITELLM_MASTER_KEY": "sk-hidden-master-key",
        "DATABASE_URL": "postgresql://u:hidden@h/d",
        "REDIS_URL": "redis://:hidden@h",
    }
    environment = read_environment(environ)
    assert "hidden" not in repr(environment)


def test_the_most_verbose_level_wins() -> None:
    """Of several levels the most verbose counts, of none INFO."""
    assert most_verbose("ERROR", "DEBUG", "INFO") == "DEBUG"
    assert most_verbose() == "INFO"


def test_a_dotenv_file_adds_and_never_overrides(tmp_path: Path) -> None:
    """Lines of .env are added with quotes, comments and references understood; what is set stays."""
    path = tmp_path / ".env"
    path.write_text(
        """# comment
A=1
export B = two words  # comment
C='${A} # raw'
D="x ${A} ${SET}\\ny"
SET=from file
E=
F=a#b
G=${NOPE:-default}
H="{\\"a\\": \\"b\\\\n\\"}"
""",
        encoding="utf-8",
    )
    assert load_dotenv(path, {"SET": "before"}) == {
        "SET": "before",
        "A": "1",
        "B": "two words",
        "C": "${A} # raw",
        "D": "x 1 before\ny",
        "E": "",
        "F": "a#b",
        "G": "default",
        "H": '{"a": "b\\n"}',
    }


def test_a_dotenv_file_that_cannot_be_used_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing file is fine, a broken line or file is a warning that shows no value."""
    assert load_dotenv(tmp_path / ".env", {"A": "1"}) == {"A": "1"}
    path = tmp_path / "broken"
    path.write_bytes(b"sk-secret value\nA=2\nB=sk-secret\0\n")
    with caplog.at_level(logging.WARNING):
        assert load_dotenv(path, {}) == {"A": "2"}
        path.write_bytes(b"\xff\xfe")
        assert load_dotenv(path, {}) == {}
    assert "broken:1: not of the form NAME=value" in caplog.text
    assert "broken:3: not of the form NAME=value" in caplog.text
    assert "cannot be read" in caplog.text
    assert "sk-secret" not in caplog.text
