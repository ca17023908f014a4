"""MLflow's own server, with SQLite or PostgreSQL behind it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.loopback import free_port
from tests.waiting import answers, wait_until

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]  # where Debian has it, if it is installed


@contextmanager
def mlflow_server(backend: str, folder: Path, port: int | None = None) -> Iterator[str]:
    """The address of a server with its artifacts in a folder and everything else in the database ``backend``."""
    port = port or free_port()
    uri = f"http://127.0.0.1:{port}"
    program = str(Path(sys.executable).with_name("mlflow"))
    command = [program, "server", "--backend-store-uri", backend, "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "store"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        # Without MLflow's own job runner, which takes as long to start as the server.
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)
    try:
        wait_until(lambda: answers(f"{uri}/health"), process, folder / "log")
        yield uri
    finally:
        process.terminate()
        process.wait()


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of a new and empty PostgreSQL database, of a server of its own."""
    (programs,) = POSTGRES
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="clflow-postgresql-"))
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root, so root lets Debian's user run it
    try:
        if user:
            shutil.chown(folder, user)

        def call(program: str, *arguments: str) -> None:
            command = [programs / program, "--pgdata", folder / "data", *arguments]
            with (folder / "out").open("w") as out:  # the server keeps it open, so it must be no pipe
                subprocess.run(command, user=user, cwd=folder, stdout=out, stderr=out, check=True)

        call("initdb", "--username=clflow", "--auth=trust", "--no-sync")
        options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c port={port} -c fsync=off"
        call("pg_ctl", "start", "--wait", "--options", options, "--log", str(folder / "log"))
        try:
            yield f"postgresql+psycopg2://clflow@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder)
