"""Stop strings: found wherever they fall, nothing shown too early, nothing lost."""

from hypothesis import given
from hypothesis import strategies as st

from tenfold.engine.text import StopStrings
from tests.helpers.engines import Rig, letter


@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3).map(tuple),
    include=st.booleans(),
)
def test_pieces_give_what_the_whole_gives(pieces: list[str], stops: tuple[str, ...], include: bool) -> None:
    finder = StopStrings(stops, include=include)
    shown = ""
    whole = ""
    for piece in pieces:
        whole += piece
        text, stop = finder.push(piece)
        shown += text
        ends = {s: whole.find(s) for s in stops if s in whole}
        if stop is not None:
            assert ends[stop] == min(ends.values())
            assert shown == whole[: ends[stop]] + (stop if include else "")
            return
        assert not ends, "a stop string went by"
    assert shown + finder.flush() == whole


def reference_text(**params: object) -> str:
    rig = Rig()
    rig.submit("x", [1, 2, 3], max_tokens=30, ignore_eos=True, **params)
    rig.run()
    return "".join(output.text for output in rig.outputs["x", 0])


def test_stop_string_ends_a_sample_at_once() -> None:
    full = reference_text()
    stop = full[10:12]
    at = full.find(stop)
    rig = Rig()
    rig.submit("x", [1, 2, 3], max_tokens=30, ignore_eos=True, stop=(stop,))
    rig.run()
    last = rig.outputs["x", 0][-1]
    assert (last.finish, last.stop) == ("stop", stop)
    assert "".join(output.text for output in rig.outputs["x", 0]) == full[:at]
    assert len(rig.tokens("x")) == at + len(stop)
    assert rig.cache.pool.held == 0


def test_min_tokens_holds_stop_strings_off() -> None:
    full = reference_text()
    stop = full[2]
    rig = Rig()
    rig.submit("x", [1, 2, 3], max_tokens=30, min_tokens=8, ignore_eos=True, stop=(stop,))
    rig.run()
    assert len(rig.tokens("x")) >= 8
    assert "".join(output.text for output in rig.outputs["x", 0]).startswith(full[:7])


def test_stop_id_ends_without_its_text() -> None:
    rig = Rig()
    rig.submit("x", [1, 2, 3], max_tokens=30, ignore_eos=True)
    rig.run()
    tokens = rig.tokens("x")
    stop = tokens[9]
    at = tokens.index(stop)
    rig.submit("y", [1, 2, 3], max_tokens=30, ignore_eos=True, stop_token_ids=(stop,))
    rig.run()
    assert rig.tokens("y") == tokens[: at + 1]
    assert (rig.finish("y"), rig.outputs["y", 0][-1].stop) == ("stop", stop)
    assert "".join(output.text for output in rig.outputs["y", 0]) == "".join(letter(t) for t in tokens[:at])
