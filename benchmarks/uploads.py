"""What an upload costs the server in memory and time, and whether it survives a line that breaks.

    python benchmarks/uploads.py

Three measurements, each on real uvicorn processes over loopback, with files of random bytes:

- the memory that the server's process takes at most beyond what it had, while a file is sent whole;
- as large a file over a relay that cuts it at random places, sent by `redeem.client`: the hash in the end, and how many
  bytes were given to the line in all;
- the rate of a PUT beside that of a bare Starlette endpoint that hashes the bytes and writes them to a file: the same
  sender, in turns. Ours also syncs the file to disk before it answers; "bare_synced" does so too, and "bare" does not.

Needs about five times the size on the disk of --folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.cutting import cutting
from benchmarks.memory import memory_of
from redeem.client import Client
from redeem.contract import BundleRole
from redeem.local.network import free_port
from redeem.settings import child_environment

MIB = 2**20
BARE = """
import asyncio, hashlib, os, sys
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def put(request: Request) -> PlainTextResponse:
    digest = hashlib.sha256()
    with open(os.environ["BARE_FILE"], "wb") as file:
        async for chunk in request.stream():
            digest.update(chunk)
            file.write(chunk)
        if request.path_params["how"] == "synced":
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
    return PlainTextResponse(digest.hexdigest())

app = Starlette(routes=[Route("/{how}", put, methods=["PUT"])])
"""


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        with redeem_server(folder) as (server, key, process), bare_server(folder) as bare:
            memory = measure_memory(server, key, process, arguments.mib)
            resumed = measure_cuts(server, key, folder, arguments.mib, arguments.cuts, arguments.seed)
            rates = measure_rates(server, key, bare, folder, arguments.mib, arguments.rounds)
    record = {
        "command": "python benchmarks/uploads.py "
        f"--mib {arguments.mib} --cuts {arguments.cuts} --rounds {arguments.rounds} --seed {arguments.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "note": arguments.note,
        "mib": arguments.mib,
        "memory": memory,
        "resumed": resumed,
        "rates": rates,
    }
    (arguments.record or Path(__file__).with_suffix(".json")).write_text(json.dumps(record, indent=2) + "\n")
    tell(record)
    return 0 if resumed["same_hash"] else 1


def parse(words: list[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mib", type=int, default=2048, help="size of the file")
    options.add_argument("--cuts", type=int, default=20)
    options.add_argument("--rounds", type=int, default=5, help="of the rates, each side once a round")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--folder", type=Path, help="where the servers write; by default the folder of temporary files"
    )
    options.add_argument("--note", default="", help="what else the machine did, for the record")
    options.add_argument("--record", type=Path, help="by default uploads.json, beside this script")
    return options.parse_args(words)


# Servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def redeem_server(folder: Path) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """Address, key and process of an API of its own, without a broker."""
    data = folder / "data"
    environment = child_environment(REDEEM_DATA=str(data), REDEEM_MIN_FREE_BYTES="0")
    with running(["service.app:create_app", "--factory"], environment, "livez") as (url, process):
        yield url, (data / "key").read_text().strip(), process


@contextmanager
def bare_server(folder: Path) -> Iterator[str]:
    (folder / "bare.py").write_text(BARE)
    environment = child_environment(BARE_FILE=str(folder / "bare"))
    with running(["bare:app", "--app-dir", str(folder)], environment, "") as (url, _):
        yield url


@contextmanager
def running(app: list[str], environment: dict[str, str], path: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", *app, "--port", str(port), "--no-access-log", "--log-level", "critical"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                httpx.get(f"{url}/{path}")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        process.wait(20)


# Measurements ----------------------------------------------------------------------------------------------------


def measure_memory(server: str, key: str, process: subprocess.Popen[bytes], mib: int) -> dict[str, Any]:
    """How much the peak of resident memory grew while a file was sent; the first, small one warms the server up."""
    put(server, key, 1)
    before = memory_of(process.pid, "VmHWM")
    put(server, key, mib)
    growth = memory_of(process.pid, "VmHWM") - before
    return {"before_mib": round(before / MIB, 1), "growth_mib": round(growth / MIB, 1)}


def measure_cuts(server: str, key: str, folder: Path, mib: int, cuts: int, seed: int) -> dict[str, Any]:
    """The client's upload over a relay that cuts `cuts` connections, each after up to twice its share of the file."""
    chance, file = random.Random(seed), folder / "cut.zip"  # noqa: S311  no secret
    write_random(file, mib)
    after = [chance.randrange(1, 2 * mib * MIB // (cuts + 1)) for _ in range(cuts)]
    used, went = [], 0

    def places() -> Iterator[int]:
        for place in after:
            used.append(place)
            yield place

    def count(step: int) -> None:
        nonlocal went
        went += max(step, 0)

    began = time.perf_counter()
    with cutting(server, places()) as url, Client(url, key) as client:
        bundle = client.upload_bundle(file, BundleRole.clean, advance=count)
    seconds = time.perf_counter() - began
    with file.open("rb") as opened:
        same = hashlib.file_digest(opened, "sha256").hexdigest() == bundle.sha256
    file.unlink()
    return {"cuts": len(used), "same_hash": same, "seconds": round(seconds, 1), "sent_mib": round(went / MIB)}


def measure_rates(server: str, key: str, bare: str, folder: Path, mib: int, rounds: int) -> dict[str, Any]:
    """MiB a second of each side, in turns, the order changing from round to round; and our rate over theirs."""
    sides = {
        "redeem": lambda: put(server, key, mib),
        "bare": lambda: put_bare(f"{bare}/plain", mib),
        "bare_synced": lambda: put_bare(f"{bare}/synced", mib),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        names = list(sides)
        for name in names[turn % 3 :] + names[: turn % 3]:
            os.sync()  # what the one before left to be written is not this one's
            rates[name].append(round(mib / sides[name](), 1))
            shutil.rmtree(folder / "data" / "store" / "blobs", ignore_errors=True)
            (folder / "bare").unlink(missing_ok=True)
    return {
        "mib_per_second": rates,
        "sha256_mib_per_second": round(hash_rate(), 1),
        "ratio_to_bare": ratio(rates["redeem"], rates["bare"]),
        "ratio_to_bare_synced": ratio(rates["redeem"], rates["bare_synced"]),
    }


def put(server: str, key: str, mib: int) -> float:
    """Seconds of the PUT of fresh bytes."""
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {key}"}, timeout=600) as http:
        upload = http.post("/v1/uploads", json={"kind": "model", "filename": "m", "size": mib * MIB}).json()["id"]
        began = time.perf_counter()
        answer = http.put(f"/v1/uploads/{upload}/content", **content(mib))
        seconds = time.perf_counter() - began
    assert answer.is_success, answer.text
    return seconds


def put_bare(url: str, mib: int) -> float:
    began = time.perf_counter()
    answer = httpx.put(url, timeout=600, **content(mib))
    assert len(answer.text) == 64, answer.text
    return time.perf_counter() - began


def content(mib: int) -> dict[str, Any]:
    """A body of so many MiB, new each time, that costs its sender little."""
    block = secrets.token_bytes(MIB)
    return {"content": (block for _ in range(mib)), "headers": {"Content-Length": str(mib * MIB)}}


def write_random(file: Path, mib: int) -> None:
    with file.open("wb") as opened:
        for _ in range(mib):
            opened.write(secrets.token_bytes(MIB))


def hash_rate() -> float:
    block = bytes(64 * MIB)
    began = time.perf_counter()
    hashlib.sha256(block)
    return 64 / (time.perf_counter() - began)


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "median": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "greatest": round(max(ratios), 2),
    }


def machine() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{os.cpu_count()} cores of {names[0] if names else 'unknown make'}"


def tell(record: dict[str, Any]) -> None:
    rates = record["rates"]["mib_per_second"]
    print(f"memory: grew by {record['memory']['growth_mib']} MiB while {record['mib']} MiB came")
    print(f"cut {record['resumed']['cuts']} times: {'the same' if record['resumed']['same_hash'] else 'ANOTHER'} hash")
    for name in rates:
        print(f"{name}: {statistics.median(rates[name]):.0f} MiB/s")
    print(f"ratio to bare: {record['rates']['ratio_to_bare']}, synced: {record['rates']['ratio_to_bare_synced']}")


if __name__ == "__main__":
    sys.exit(main())
