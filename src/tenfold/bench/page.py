"""A report as one HTML file that needs nothing else: figures, pictures, definitions."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tenfold.bench import plots
from tenfold.bench.report import TIMES, how
from tenfold.engine.inspection import StepRecord
from tenfold.traffic.figures import PERCENTILES

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.sub { color: #666; margin-top: .2rem; } .warn { background: #fff1d6; padding: .5rem .8rem; border-radius: 4px; }
table { border-collapse: collapse; margin: .8rem 0; } td, th { padding: .2rem .8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr { border-bottom: 1px solid #ddd; }
svg { max-width: 100%; height: auto; } .big { display: flex; gap: 2.5rem; flex-wrap: wrap; margin: 1rem 0; }
.big div b { display: block; font-size: 1.6rem; font-weight: 600; } .big div { color: #666; }
"""

_DEFINITIONS = (
    ("TTFT", "from the request being sent to the first piece of the answer"),
    ("ITL", "between two pieces of an answer"),
    ("TPOT", "of one request: from the first piece to the last, divided by its tokens but one"),
    ("E2E", "from the request being sent to the end of the answer"),
    ("good", "answered in full, with TTFT and TPOT within the bounds; refused, failed and short answers are not"),
    ("goodput", "good requests per second of wall time"),
    ("percentiles", "over requests (ITL: over all gaps) that did not fail; rank floor(p/100 × count)"),
)


def page(report: Mapping[str, Any], steps: Sequence[StepRecord] = ()) -> str:
    """Of one load, and of the engine's ``steps`` meanwhile where it tells of them."""
    big = [
        (f"{report['out_tok_s']:g}", "output tokens per second"),
        (f"{report['req_s']:g}", "requests per second"),
        (f"{report['wall_s']:g} s", "from the first request to the last answer"),
    ]
    if "slo" in report:
        big.insert(0, (f"{report['attained']:.1%}", "met the bounds"))
        big.insert(1, (f"{report['goodput_req_s']:g}", "good requests per second"))
    body = [_heading(report, f"{report['n']} requests, {how(report)}")]
    if "partial" in report:
        body.append(f'<p class="warn">This run is partial: {escape(report["partial"])}.</p>')
    if "first_error" in report:
        body.append(f'<p class="warn">First error: {escape(report["first_error"])}</p>')
    body.append(f'<div class="big">{"".join(f"<div><b>{escape(a)}</b>{escape(b)}</div>" for a, b in big)}</div>')
    groups = dict(report["kinds"]) if len(report["kinds"]) > 1 else {}
    body += [_figures({**groups, "all": report["all"]})]
    if plots.available():
        body += ["<h2>Distributions</h2>", plots.distributions(dict(report))]
        body += ["<h2>Over time</h2>", plots.over_time(dict(report))]
        if steps:
            body += [f"<h2>The engine's last {len(steps)} steps</h2>", plots.step_timeline(steps)]
    else:
        body.append("<p>No pictures: they need matplotlib (pip install 'tenfold[plot]').</p>")
    for key, title in (("classes", "Classes"), ("tenants", "Tenants")):
        if key in report:
            body += [f"<h2>{title}</h2>", _figures({name or "-": row for name, row in report[key].items()})]
    return _whole(f"{report['workload']} on {report['target']}", body)


def sweep_page(reports: Sequence[Mapping[str, Any]], found: str | None = None) -> str:
    """Of several rates; ``found`` says what the search for the greatest came to."""
    first = reports[0]
    body = [_heading(first, f"{len(reports)} rates")]
    if found is not None:
        body.append(f'<div class="big"><div><b>{escape(found)}</b></div></div>')
    columns = ["requests/s", "refused", "output tok/s", "TTFT p50", "p95, ms", "TPOT p50", "p95, ms"]
    rows = []
    for report in reports:
        every = report["all"]
        row = [f"{report['rate'] or 0:.3g}", str(every["refused"]), f"{report['out_tok_s']:g}"]
        row += [_number(every[key][p]) for key in ("ttft_ms", "tpot_ms") for p in ("p50", "p95")]
        if "slo" in report:
            row += [f"{report['attained']:.1%}", f"{report['goodput_req_s']:g}"]
        rows.append(row)
    body.append(_table([*columns, *(["met the bounds", "good req/s"] if "slo" in first else [])], rows))
    if plots.available():
        body += ["<h2>Against the rate</h2>", plots.against_rate([dict(report) for report in reports])]
    return _whole(f"{first['workload']} on {first['target']}", body)


def plan_page(
    title: str,
    about: str,
    words: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    picture: str | None,
) -> str:
    """Of a plan: what was found in words, all that was tried, and a picture of it."""
    body = [f'<h1>{escape(title)}</h1><p class="sub">{escape(about)}</p>']
    body += [f"<p>{escape(text)}</p>" for text in words]
    if picture is not None:
        body += ["<h2>Cost and attainment</h2>", picture]
    body += ["<h2>What was tried</h2>", _table(columns, rows)]
    return _whole(title, body)


def _heading(report: Mapping[str, Any], load: str) -> str:
    about = [load, f"seed {report['seed']}", report["target"]]
    if "slo" in report:
        bounds = [
            f"{name} {report['slo'][f'{name.lower()}_ms']:g} ms"
            for name in ("TTFT", "TPOT")
            if report["slo"][f"{name.lower()}_ms"]
        ]
        about.insert(1, "bounds: " + ", ".join(bounds))
    return f'<h1>{escape(report["workload"])}</h1><p class="sub">{escape(" · ".join(about))}</p>'


def _figures(groups: Mapping[str, Mapping[str, Any]]) -> str:
    columns = ["requests", "count", "errors", "refused"]
    bounded = any("good" in row for row in groups.values())
    columns += ["good"] if bounded else []
    columns += [f"{label} p{p}" for _, label in TIMES for p in PERCENTILES]
    rows = []
    for name, figures in groups.items():
        row = [name, str(figures["n"]), str(figures["errors"]), str(figures["refused"])]
        row += [str(figures.get("good", ""))] if bounded else []
        row += [_number(figures[f"{key}_ms"][f"p{p}"]) for key, _ in TIMES for p in PERCENTILES]
        rows.append(row)
    return _table(columns, rows) + "<p>Times in milliseconds.</p>"


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells: Iterable[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line(columns, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _whole(title: str, body: Iterable[str]) -> str:
    terms = "".join(
        f"<tr><td>{escape(a)}</td><td style='text-align:left'>{escape(b)}</td></tr>" for a, b in _DEFINITIONS
    )
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<body>{''.join(body)}<h2>What the words mean</h2><table>{terms}</table></body></html>\n"
    )
