"""Fixtures for all tests: the servers. They start when the first test asks for them."""

from __future__ import annotations

from tests.servers import database_url, postgres_url, redis_url

__all__ = ["database_url", "postgres_url", "redis_url"]
