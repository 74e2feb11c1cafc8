"""The report as one HTML page that needs nothing else, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from fmgs_nerfstudio.evaluation.html import render
from fmgs_nerfstudio.evaluation.report import tables
from fmgs_nerfstudio.evaluation.report.curves import COLOURS, svg
from fmgs_nerfstudio.evaluation.report.results import RunResult
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
    titles = dict.fromkeys(title for result in results for title in result.curves)
    return render(
        "report.html",
        title=TITLE,
        not_the_papers=_NOT_THE_PAPERS,
        captions=_CAPTIONS,
        results=results,
        papers=tables.paper_tables(results),
        summary=tables.summary(results),
        refined=tables.refined_tables(results),
        other_tables=[tables.protocol_table(results), tables.measures_table(results)],
        views=[tables.view_table(result) for result in results],
        charts={title: svg(title, [result.curves.get(title) for result in results]) for title in titles},
        colours=COLOURS,
    )


def markdown(results: Sequence[RunResult]) -> str:
    """The tables and facts; the pictures are on the page."""
    papers = tables.paper_tables(results)
    parts = [f"# {TITLE}", *(_markdown_table(table) for table in papers)]
    parts += [] if papers else [_NOT_THE_PAPERS]
    made = [tables.summary(results), *tables.refined_tables(results)]
    made += [tables.protocol_table(results), tables.measures_table(results)]
    parts += [_markdown_table(table) for table in made]
    for result in results:
        facts = "\n".join(f"- {name}: {value}" for name, value in result.facts.items())
        parts += [f"## {result.name}", facts, _markdown_table(tables.worst_table(result))]
        parts.append(_markdown_table(tables.view_table(result)))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rows = [[f"**{cell}**" if table.stands_out(i) else cell for cell in row] for i, row in enumerate(table.rows)]
    lines = [table.header, ["---"] * len(table.header), *rows]
    body = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return f"### {table.title}\n\n{body}" + (f"\n\n{table.note}" if table.note else "")
