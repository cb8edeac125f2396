"""``tenfold keys``, and options of ``tenfold serve`` that are about who may ask."""

import json
from pathlib import Path

from tenfold.server.keyfile import hash_of, read_keys
from tests.cli.conftest import Cli

LIMITS = ("--requests-per-minute", "60", "--tokens-per-minute", "10000")


def test_a_new_key_and_its_line(cli: Cli, tmp_path: Path) -> None:
    made = cli("keys", "new", "--tenant", "acme", "--label", "laptop", "--class", "batch", *LIMITS)
    assert made.exit_code == 0
    key = made.stderr.strip().removeprefix("key (shown once): ")
    assert key not in made.stdout
    file = tmp_path / "keys.toml"
    file.write_text(made.stdout + cli("keys", "new").stdout)
    records = read_keys(file, ("batch",))
    assert records["laptop"].hash == hash_of(key.encode())
    assert (records["laptop"].tenant, records["laptop"].classes) == ("acme", ("batch",))
    assert (records["laptop"].requests_per_minute, records["laptop"].tokens_per_minute) == (60, 10000)
    assert len(records) == 2


def test_what_a_file_has(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    made = json.loads(cli("keys", "new", "--label", "laptop", "--class", "gold", *LIMITS, "--json").stdout)
    file.write_text(made["line"])
    shown = cli("keys", "--file", str(file), "--slo-class", "gold:ttft=1s")
    assert shown.exit_code == 0
    assert "laptop" in shown.stdout
    assert "10,000" in shown.stdout
    assert made["key"] not in shown.stdout
    rows = json.loads(cli("keys", "--file", str(file), "--slo-class", "gold:ttft=1s", "--json").stdout)
    assert rows[0]["label"] == "laptop"
    assert "hash" not in rows[0]
    refused = cli("keys", "--file", str(file))
    assert refused.exit_code == 2
    assert "'gold'" in refused.stderr


def test_tls_needs_both_files(cli: Cli) -> None:
    refused = cli("serve", "--tls-cert", "cert.pem")
    assert refused.exit_code == 2
    assert "--tls-cert needs --tls-key" in refused.stderr
