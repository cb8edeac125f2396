"""What the doctor says of a machine."""

from pathlib import Path

from tenfold.doctor.machine import gpus_of


def test_cards_are_told_by_the_driver(tmp_path: Path) -> None:
    assert gpus_of(tmp_path / "no driver") == []
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "information").write_text("Model: \t NVIDIA H200\nIRQ:   5\n")
    (tmp_path / "0000:03:00.0").mkdir()
    assert gpus_of(tmp_path) == ["NVIDIA H200"] * 2
