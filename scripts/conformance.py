"""Does the server do what its own page says? ``python -m scripts.conformance --schemathesis PATH [--model NAME]``.

schemathesis (https://pypi.org/project/schemathesis, in a virtual environment of its own; PATH is its ``schemathesis``)
reads ``/openapi.json`` and sends each route what the page allows and what it does not. No answer may be a 5xx, each
must have a content type and a body that the page tells of, a stream's events as well, and what the page forbids must be
refused. Without ``--model`` the server stands on the tests' engine, which answers at once.
Exit code: schemathesis's, 0 where nothing was found.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.doctor import free_port, serve, until_ready
from tests.server.conftest import LiveServer
from tests.server.fakes import FakeEngine

# All of schemathesis's checks but those of logins, which the page has none of without keys, and
# ``positive_data_acceptance``: a schema cannot say that a prompt has to fit the model's context.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
)


@contextlib.contextmanager
def running(model: str | None) -> Iterator[str]:
    """The URL of a server, with ``model`` or the tests' engine behind it."""
    if model is None:
        with LiveServer(FakeEngine(burst=8), max_context=4096) as live:
            yield live.url
        return
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = serve(model, "--port", str(port), "--max-context", "512")
    try:
        until_ready(url, server)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def main() -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemathesis", required=True, help="its executable")
    parser.add_argument("--model", help="one to serve; otherwise the tests' engine")
    parser.add_argument("--examples", type=int, default=200, help="of each route, of each kind")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    program = str(Path(told.schemathesis).absolute())
    with running(told.model) as url:
        command = [
            *(program, "run", f"{url}/openapi.json", "--url", url, "--checks", ",".join(CHECKS)),
            *("--mode", "all", "--max-examples", str(told.examples), "--seed", str(told.seed)),
            *("--generation-database", "none", "--suppress-health-check", "too_slow"),
            *("--continue-on-failure", "--request-timeout", "30"),
        ]
        with tempfile.TemporaryDirectory() as folder:  # it leaves its notes where it runs
            return subprocess.run(command, cwd=folder).returncode


if __name__ == "__main__":
    sys.exit(main())
