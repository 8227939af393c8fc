"""A legacy deployment by scripts, and the program that uses it, against a real server."""

import os
import subprocess
import sys
from pathlib import Path

from tests.client.client_server import Server

HERE = Path(__file__).parent


def test_a_script_deploys_what_a_program_uses(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", "na+sm")
    environment = {name: value for name, value in os.environ.items() if name != "MOFKA_METADATA"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=100, env=environment, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()[-1]

    try:
        assert run("sh", HERE / "legacy_deployment.sh", server.group_file, tmp_path) == "deployed"
        assert run(sys.executable, HERE / "simulation.py", server.group_file) == "300 steps kept"
        assert (tmp_path / "data").stat().st_size >= 300 * 4096
    finally:
        server.kill()
