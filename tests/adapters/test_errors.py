"""The hierarchy of errors."""

from __future__ import annotations

import inspect
import re

import pytest

from adapters import errors
from adapters.errors import BadRequest, GatewayError, ModelNotFound, UpstreamError, UpstreamRateLimited

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, GatewayError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_each_class_is_complete(kind: type[GatewayError]) -> None:
    """Each has an HTTP error status, a type and a reason that can be a label."""
    assert 400 <= kind.status < 600
    assert kind.type
    assert re.fullmatch(r"[a-z_]+", kind.reason)


def test_reasons_tell_classes_apart() -> None:
    """No two classes share a reason, so a metric's label names one thing."""
    reasons = [kind.reason for kind in CLASSES if kind is not GatewayError]
    assert len(set(reasons)) == len(reasons)


def test_what_the_caller_did_is_never_asked_elsewhere() -> None:
    """Only what an upstream did may send the question to another deployment."""
    assert [kind for kind in CLASSES if kind.elsewhere and not issubclass(kind, UpstreamError)] == []


def test_the_code_is_a_string() -> None:
    """The code is what was given, else the status as text."""
    assert BadRequest("x").code == "400"
    assert BadRequest("x", code="why").code == "why"
    assert ModelNotFound("x").code == "model_not_found"
    assert ModelNotFound("x").param == "model"


def test_an_instance_may_know_better() -> None:
    """A provider's own status and type go before the class's, for that instance alone."""
    error = UpstreamRateLimited("x", status=418, type="tokens", retry_after=3.5)
    assert (error.status, error.type, error.retry_after) == (418, "tokens", 3.5)
    assert UpstreamRateLimited("x").status == 429
