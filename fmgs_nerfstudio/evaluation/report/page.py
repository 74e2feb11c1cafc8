"""The report as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from fmgs_nerfstudio.evaluation.report import tables
from fmgs_nerfstudio.evaluation.report.curves import svg
from fmgs_nerfstudio.evaluation.report.results import Panel, RunResult
from fmgs_nerfstudio.evaluation.report.tables import Table

TITLE = "FMGS-Avatar: report"
_NOT_THE_PAPERS = (
    "No run is on data of the paper's Tables 1 and 2 in their splits: none of their numbers is comparable."
)
_CAPTIONS = {
    "rgb": "rendering",
    "depth": "depth, near is bright",
    "normal": "normal",
    "surface_normal": "normal from depth",
    "semantics": "semantics",
}


def html_page(results: Sequence[RunResult]) -> str:
    """The whole page: tables, curves, and for each run panels, worst frames, every image and the configuration."""
    style, script = (Path(__file__).with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".css", ".js"))
    papers = tables.paper_tables(results)
    parts = [
        f"<h1>{TITLE}</h1>",
        "<nav>" + "".join(f'<a href="#run{i}">{escape(r.name)}</a>' for i, r in enumerate(results)) + "</nav>",
        *(_table(table) for table in papers),
        "" if papers else f'<p class="note">{_NOT_THE_PAPERS}</p>',
        _table(tables.summary(results)),
        _details(tables.protocol_table(results)),
        _details(tables.measures_table(results)),
        _curves(results),
        *(_run(i, result) for i, result in enumerate(results)),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{TITLE}</title><style>{style}</style></head>'
        f"<body>{''.join(parts)}<script>{script}</script></body></html>\n"
    )


def _table(table: Table, sortable: bool = False) -> str:
    def cell(tag: str, text: str, column: int) -> str:
        is_text = column == 0 or all(not _is_number(row[column]) for row in table.rows)
        shown = f"<button>{escape(text)}</button>" if sortable and tag == "th" else escape(text)
        return f"<{tag}{' class=text' if is_text else ''}>{shown}</{tag}>"

    header = "".join(cell("th", text, i) for i, text in enumerate(table.header))
    rows = "".join(
        f"<tr{' class=ours' if number in table.ours and len(table.ours) < len(table.rows) else ''}>"
        f"{''.join(cell('td', text, i) for i, text in enumerate(row))}</tr>"
        for number, row in enumerate(table.rows)
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    body = f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f"<h3>{escape(table.title)}</h3>{body}{note}"


def _is_number(text: str) -> bool:
    return text == "–" or text[:1].isdigit() or text[:1] == "-"


def _details(table: Table, sortable: bool = False) -> str:
    inner = _table(table, sortable).removeprefix(f"<h3>{escape(table.title)}</h3>")
    return f"<details><summary>{escape(table.title)}</summary>{inner}</details>"


def _curves(results: Sequence[RunResult]) -> str:
    titles = list(dict.fromkeys(title for result in results for title in result.curves))
    if not titles:
        return '<h2>Training</h2><p class="note">No TensorBoard events: train with --vis tensorboard.</p>'
    keys = "".join(f'<span class="key run{i % 6}"></span>{escape(r.name)} ' for i, r in enumerate(results))
    charts = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg(title, [r.curves.get(title) for r in results])}</figure>"
        for title in titles
    )
    note = "Weighted terms of Eq. 21 by the paper's names, by training step; logarithmic where they vary much."
    return f'<h2>Training</h2><p class="note">{note}</p><p>{keys}</p><div class="curves">{charts}</div>'


def _run(number: int, result: RunResult) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in result.facts.items())
    return "".join(
        [
            f'<h2 id="run{number}">{escape(result.name)}</h2><dl>{facts}</dl>',
            "<h3>Held-out images: drag between rendering and truth</h3>",
            *(_panel(panel) for panel in result.panels),
            "<h3>In canonical space</h3>",
            f'<div class="pictures">{_pictures(result.at_rest)}</div>',
            "<h3>Worst frames, by PSNR</h3>",
            *(_panel(panel) for panel in result.worst),
            _details(tables.view_table(result), sortable=True),
            f"<details><summary>Configuration</summary><pre>{escape(result.config)}</pre></details>",
        ]
    )


def _panel(panel: Panel) -> str:
    view = panel.view
    numbers = [f"PSNR {view.metrics['psnr']:.2f}", f"SSIM {view.metrics['ssim']:.4f}"]
    numbers += [f"LPIPS {view.metrics['lpips']:.1f}"] if "lpips" in view.metrics else []
    name = escape(view.name)
    slider = (
        f'<figure><div class="compare">{_image(panel.truth, "truth")}{_image(panel.rgb, "rendering", "over")}'
        f'<input type="range" min="0" max="100" value="50" step="any" aria-label="rendering or truth of {name}">'
        '<div class="bar"></div><span class="left">rendering</span><span class="right">truth</span></div>'
        f"<figcaption>{name}: {', '.join(numbers)}</figcaption></figure>"
    )
    return f'<div class="panel">{slider}<div class="pictures">{_pictures(panel.maps)}</div></div>'


def _pictures(maps: Mapping[str, bytes]) -> str:
    return "".join(
        f"<figure>{_image(data, _CAPTIONS[name])}<figcaption>{_CAPTIONS[name]}</figcaption></figure>"
        for name, data in maps.items()
    )


def _image(data: bytes, text: str, style: str = "") -> str:
    encoded = base64.b64encode(data).decode("ascii")
    return f'<img{f" class={style}" if style else ""} alt="{text}" src="data:image/png;base64,{encoded}">'


def markdown(results: Sequence[RunResult]) -> str:
    """The tables and facts; the pictures are on the page."""
    papers = tables.paper_tables(results)
    parts = [f"# {TITLE}", *(_markdown_table(table) for table in papers)]
    parts += [] if papers else [_NOT_THE_PAPERS]
    parts += [_markdown_table(make(results)) for make in (tables.summary, tables.protocol_table, tables.measures_table)]
    for result in results:
        facts = "\n".join(f"- {name}: {value}" for name, value in result.facts.items())
        parts += [f"## {result.name}", facts, _markdown_table(tables.worst_table(result))]
        parts.append(_markdown_table(tables.view_table(result)))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rows = [
        [f"**{cell}**" if i in table.ours and len(table.ours) < len(table.rows) else cell for cell in row]
        for i, row in enumerate(table.rows)
    ]
    lines = [table.header, ["---"] * len(table.header), *rows]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"### {table.title}\n\n{body}" + (f"\n\n{table.note}" if table.note else "")
