"""Some inputs for each target of the fuzzer, and faults that its watchman has to find. ``python -m scripts.fuzz`` runs
a million."""

from pathlib import Path
from random import Random

import pytest

from scripts.fuzz.running import Plan, watch
from scripts.fuzz.targets import TARGETS, Gguf
from tests.fuzz.faulty import faulty, no_target

INPUTS = {"safetensors": 600, "answers": 600, "gguf": 400}  # of the cheap ones


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_crashes(name: str, tmp_path: Path) -> None:
    target = TARGETS[name].make(tmp_path)
    for number in range(INPUTS.get(name, 60)):
        target(Random(f"{name} tests {number}"))


def test_inputs_are_made_by_the_seed_alone(tmp_path: Path) -> None:
    made = Gguf(tmp_path)
    assert [made.data(Random(7)), made.data(Random(7))] == 2 * [made.data(Random(7))]
    assert made.data(Random(7)) != made.data(Random(8))


def test_the_watchman_finds_every_kind_of_crash() -> None:
    done, crashes = watch("faulty", Plan(faulty, 1.0, patience=2.0), 0, range(8), 600.0, 2.0)
    assert done == 8
    # The second process counts anew: its third input would be the ninth.
    assert [number for number, _ in crashes] == [2, 3, 4, 5]
    for (_, text), kind in zip(crashes, ("KeyError", "TooLongError", "MemoryError", "code -9"), strict=True):
        assert kind in text


def test_a_target_that_cannot_begin_is_no_crash_of_its_inputs() -> None:
    with pytest.raises(RuntimeError, match="before its first input"):
        watch("none", Plan(no_target, 1.0), 0, range(8), 600.0, 2.0)
