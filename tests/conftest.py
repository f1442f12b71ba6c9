"""Fixtures for every test."""

from tests.stacks import database_url, either_database, postgres, postgres_url, rabbitmq, s3

__all__ = ["database_url", "either_database", "postgres", "postgres_url", "rabbitmq", "s3"]
