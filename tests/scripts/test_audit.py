"""The audit of what is installed: what is found, what is accepted, and what is no answer."""

import json
from typing import Any

import pytest

from scripts.audit import NONE, SOME, SOURCES, UNREACHABLE, audit

SOUND = {"name": "sound", "version": "2", "vulns": []}
OURS = {"name": "ours", "skip_reason": "not found on PyPI"}
FLAW = {"id": "PYSEC-1", "aliases": ["CVE-7"], "fix_versions": ["1.1"]}
FLAWED = {"name": "flawed", "version": "1", "vulns": [FLAW, {"id": "PYSEC-2"}]}


def audited(answers: dict[str, list[Any] | str], *accepted: str) -> tuple[int, str, list[str]]:
    """(exit code, what was said, who was asked)."""
    asked, said = [], []

    def ask(source: str, seconds: float) -> str:
        assert 0 < seconds <= 9
        asked.append(source)
        answer = answers.get(source, "")
        return answer if isinstance(answer, str) else json.dumps({"dependencies": answer, "fixes": []})

    code = audit(ask, 9, accepted, said.append)
    return code, "\n".join(said), asked


def test_what_is_found_is_named() -> None:
    code, said, asked = audited({"pypi": [SOUND, FLAWED, OURS]})
    assert (code, asked) == (SOME, ["pypi"])
    assert "flawed 1: PYSEC-1, CVE-7; fixed in 1.1" in said
    assert "PYSEC-2; fixed in no version yet" in said
    assert "2 known vulnerabilities in 2 packages" in said
    assert "not checked: ours" in said


def test_nothing_found_and_what_is_accepted() -> None:
    assert audited({"pypi": [SOUND]})[0] == NONE
    assert audited({"pypi": [FLAWED]}, "CVE-7")[0] == SOME
    code, said, _ = audited({"pypi": [FLAWED]}, "CVE-7", "PYSEC-2")
    assert code == NONE
    assert "flawed" not in said


@pytest.mark.parametrize("none", ["", "Traceback", "[]", "{}", [OURS]])
def test_who_cannot_be_asked_is_no_good_news(none: Any) -> None:
    """Also a mirror of PyPI that knows files and no advisories."""
    assert audited({"pypi": none, "osv": [FLAWED]})[0] == SOME
    code, said, asked = audited({"pypi": none, "osv": none})
    assert (code, asked) == (UNREACHABLE, list(SOURCES))
    assert "no advisories could be had" in said
