"""``python -m benchmarks.shootout``: install the peers, run, and render a run again."""

import argparse
import datetime
import shlex
import sys
from pathlib import Path

from benchmarks.shootout import record
from benchmarks.shootout.peers import all_peers
from benchmarks.shootout.peers.base import Model, PeerError
from benchmarks.shootout.plot import draw
from benchmarks.shootout.report import markdown
from benchmarks.shootout.rows import BATCHES, Encode, row_names
from benchmarks.shootout.runner import Shootout
from tenfold.core.config import DEFAULT_MODEL
from tenfold.model.store import resolve

HERE = Path(__file__).parent
GOLDEN = HERE.parent.parent / "tests" / "golden"


def main() -> int:
    """Parse the command line and do what it says; the exit code."""
    arguments = _parser().parse_args()
    if arguments.command == "install":
        return install(arguments.peers, shlex.split(arguments.pip))
    if arguments.command == "render":
        write(record.load(arguments.json), arguments.json)
        return 0
    return run(arguments)


def install(names: list[str], pip_flags: list[str]) -> int:
    """Install the named peers, or all; 1 where one could not be."""
    failed = 0
    for name in names or all_peers():
        peer = all_peers()[name]
        print(f"{peer.label}: installing", flush=True)
        try:
            peer.install(pip_flags)
        except PeerError as error:
            failed = 1
            print(f"{peer.label}: {error}", file=sys.stderr)
        else:
            print(f"{peer.label}: {peer.missing() or 'ready'}")
    return failed


def run(arguments: argparse.Namespace) -> int:
    """Measure, write the JSON as it grows, then the table and the plot."""
    gguf = resolve(arguments.model)
    golden = GOLDEN / f"{arguments.model}.json"
    model = Model(arguments.model, gguf, Encode(arguments.model), golden if golden.is_file() else None)
    peers = [peer for name, peer in all_peers(arguments.kv).items() if name in arguments.peers]
    made = record.new_run(arguments.model, shlex.join(["python", "-m", "benchmarks.shootout", *sys.argv[1:]]))
    path = arguments.out / f"{arguments.name or f'{datetime.date.today()}-{arguments.model}'}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    shootout = Shootout(
        made,
        model,
        peers,
        lambda current: current.save(path),
        patience=arguments.quiet_wait,
        retries=arguments.retries,
    )
    shootout.prepare()
    try:
        shootout.offline(arguments.rows, arguments.rounds)
        shootout.serving(arguments.rows, arguments.serving_rounds)
    except KeyboardInterrupt:
        print("interrupted: reporting what was measured", file=sys.stderr)
    made.save(path)
    write(made, path)
    return 0


def write(made: record.Run, path: Path) -> None:
    """The table and the plot beside the JSON at ``path``."""
    text = markdown(made, row_names())
    try:
        draw(made, row_names(), path.with_suffix(".png"))
    except ImportError:
        print("no plot: matplotlib is missing (pip install 'tenfold[plot]'); `render` draws it later", file=sys.stderr)
    else:
        text += f"\n![{made.model}]({path.with_suffix('.png').name})\n"
    path.with_suffix(".md").write_text(text)
    print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shootout", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    peers = list(all_peers())

    one = commands.add_parser("install", help="bring peers into the cache folder, exact versions, one venv each")
    one.add_argument("peers", nargs="*", choices=[*peers, []], metavar="PEER", help=", ".join(peers))
    one.add_argument("--pip", default="", metavar="FLAGS", help="more flags for pip, such as an extra index for torch")

    one = commands.add_parser("run", help="measure, write JSON, Markdown and a plot")
    one.add_argument("--model", default=DEFAULT_MODEL, help="smollm2-135m or gemma3-270m")
    one.add_argument("--peers", nargs="+", choices=peers, default=peers, metavar="PEER", help=", ".join(peers))
    one.add_argument(
        "--rows", nargs="+", choices=row_names(), default=row_names(), metavar="ROW", help="; ".join(row_names())
    )
    one.add_argument("--offline", dest="rows", action="store_const", const=tuple(row.name for row in BATCHES))
    one.add_argument("--kv", choices=("bf16", "int8"), default="bf16", help="how Tenfold stores keys and values")
    one.add_argument("--rounds", type=int, default=5, help="of the offline rows")
    one.add_argument("--serving-rounds", type=int, default=3, help="of the rows through HTTP")
    one.add_argument("--quiet-wait", type=float, default=20, help="seconds to wait for others to leave the machine")
    one.add_argument("--retries", type=int, default=2, help="of a measurement that others disturbed")
    one.add_argument("--name", help="of the result files; default: the date and the model")
    one.add_argument("--out", type=Path, default=HERE / "results", help="folder of the result files")

    one = commands.add_parser("render", help="write the table and the plot of a run again")
    one.add_argument("json", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
