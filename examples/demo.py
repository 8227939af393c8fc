"""Start a service, stream Python's standard library through it, and check every byte: ``make demo``.

Everything is what a user would type: `bedrock` with the configuration below, `diaspora-ctl topic create`, the
two sides of `ingest_directory.py` at the same time, `bedrock-shutdown`. It happens in a temporary directory,
which is removed, with all processes ended, however the demo ends. The exit status is 0 only if every file
came out as it went in.
"""

import contextlib
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

CONFIG = """\
{
    "libraries": [
        "libflock-bedrock-module.so",
        "libyokan-bedrock-module.so",
        "libwarabi-bedrock-module.so",
        "libabt-io-bedrock-module.so",
        "libmofka-bedrock-module.so"
    ],
    "providers": [
        {
            "name" : "group_manager",
            "type" : "flock",
            "provider_id" : 1,
            "config": {
                "bootstrap": "self",
                "file": "mofka.json",
                "group": {
                    "type": "static"
                }
            }
        },
        {
            "name": "master_database",
            "provider_id": 2,
            "type": "yokan",
            "tags" : [ "mofka:master" ],
            "config" : {
                "database" : {
                    "type": "map"
                }
            }
        },
        {
            "name" : "io_controller",
            "type" : "abt_io",
            "provider_id" : 3,
            "config" : {},
            "dependencies": {
                "pool": "__primary__"
            }
        }
    ]
}
"""
TOPIC = "standard_library"
INGEST = Path(__file__).resolve().with_name("ingest_directory.py")
TIMEOUT = 300.0
PATIENCE = 10.0


class DemoFailed(Exception):
    """A command of the demo did not do what it should."""


@contextlib.contextmanager
def started(
    *command: str, directory: Path, stdout: int | None = None, stderr: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A command of this environment in `directory`, and in a session of its own: Ctrl-C is for the demo."""
    print("$", shlex.join(command), flush=True)
    program = Path(sys.executable).with_name(command[0])
    with subprocess.Popen(
        [program, *command[1:]],
        cwd=directory,
        stdout=stdout,
        stderr=stderr,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def run(*command: str, directory: Path) -> None:
    """Run a command to its end, which must be a success."""
    with started(*command, directory=directory) as process:
        finish(process, command[0])


def finish(process: subprocess.Popen[str], name: str) -> str:
    """Wait for a process, which must succeed; what it printed, if that was asked for."""
    output, errors = process.communicate(timeout=TIMEOUT)
    if process.returncode != 0:
        raise DemoFailed(f"{name} ended with status {process.returncode}. {errors or ''}")
    return output or ""


def demo(directory: Path) -> None:
    """The demo itself, in an empty directory."""
    (directory / "config.json").write_text(CONFIG)
    ingest = ("python", str(INGEST), "--group-file", "mofka.json", "--topic", TOPIC)
    library = sysconfig.get_paths()["stdlib"]
    with started(
        "bedrock", "na+sm", "-c", "config.json", directory=directory, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        if not any("Bedrock daemon now running" in line for line in server.stdout):
            raise DemoFailed("bedrock ended before it was ready")
        run(
            *("diaspora-ctl", "topic", "create", "--name", TOPIC),
            *("--driver", "mofka", "--driver.group_file", "mofka.json"),
            *("--topic.num_partitions", "1", "--topic.config.type", "default"),
            *("--topic.config.partition.path", str(directory / "partitions")),
            directory=directory,
        )
        produce = (*ingest, "--glob", "*.py", "--exclude", "site-packages", library)
        with (
            started(*ingest, "--consume", directory=directory) as consumer,
            started(
                *produce, directory=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as producer,
        ):
            sent = finish(producer, "the producer")
            finish(consumer, "the consumer")
            print(sent, end="")
        run("bedrock-shutdown", "na+sm", "-f", "mofka.json", directory=directory)
        finish(server, "bedrock")


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="mofka-demo-") as directory:
            demo(Path(directory))
    except KeyboardInterrupt:
        print("\ndemo interrupted", file=sys.stderr)
        return 130
    except (DemoFailed, OSError, subprocess.TimeoutExpired) as error:
        print(f"\n*** DEMO FAILED: {error} ***", file=sys.stderr)
        return 1
    print("demo succeeded: what went in came out, byte for byte")
    return 0


if __name__ == "__main__":
    sys.exit(main())
