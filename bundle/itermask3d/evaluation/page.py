"""One page with everything an evaluation found: a single file that opens from disk and prints."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment

from itermask3d.evaluation.plots import Picture
from itermask3d.evaluation.text import Table, shown
from itermask3d.inference.results import RESEARCH_USE

__all__ = ["evaluation_page"]

TEMPLATE = """{% macro figure(picture) %}
<figure>
<img src="{{ embedded(picture) }}" alt="{{ picture.alt }}" loading="lazy">
<figcaption>{{ picture.title }}</figcaption>
</figure>
{% endmacro %}<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 75rem;
  margin: 0 auto; padding: 1rem; }
h1, h2 { line-height: 1.2; }
.notice { border-left: .3rem solid #d55e00; padding: .3rem .8rem; font-weight: 600; }
nav ul { columns: 2 16rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
.note { font-size: .9rem; max-width: 60rem; }
th, td { border-bottom: 1px solid #ccc; padding: .25rem .55rem; text-align: right; vertical-align: top; }
th[scope=col] { border-bottom: 2px solid #444; vertical-align: bottom; }
th:first-child, td:first-child, .text { text-align: left; }
.oracle { color: #555; font-style: italic; background: #f3f3f3; }
figure { margin: 1rem 0; break-inside: avoid; }
img { max-width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #444; }
dt { font-weight: 600; }
dd { margin: 0 0 .4rem 1rem; overflow-wrap: anywhere; }
@media screen { td:not(.long) { white-space: nowrap; } td.long { min-width: 14rem; } }
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; }
  nav { display: none; }
  .wide { overflow: visible; }
  table { font-size: 7pt; }
  tr, figure { break-inside: avoid; }
  h2 { break-after: avoid; }
}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
<p class="notice">{{ notice }}</p>
</header>
<nav aria-label="Contents">
<ul>
{% for table in tables %}<li><a href="#{{ table.name }}">{{ table.title }}</a></li>
{% endfor %}{% if under["figures"] %}<li><a href="#figures">Other figures</a></li>{% endif %}
<li><a href="#run">How this was made</a></li>
</ul>
</nav>
<main>
{% for table in tables %}
<section id="{{ table.name }}">
<h2>{{ table.title }}</h2>
<p class="note" id="{{ table.name }}-note">{{ table.note }}</p>
<div class="wide" tabindex="0" role="region" aria-label="{{ table.title }}">
<table aria-describedby="{{ table.name }}-note">
<thead><tr>{% for key, heading in table.columns.items() %}\
<th scope="col" class="\
{% if heading.startswith("oracle") %}oracle{% elif key in texts[table.name] %}text{% endif %}">{{ heading }}</th>\
{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for key, heading in table.columns.items() %}\
<td class="{% if heading.startswith("oracle") %}oracle{% elif key in texts[table.name] %}text{% endif %}\
{% if row.get(key) is string and row.get(key)|length > 30 %} long{% endif %}">\
{{ shown(row.get(key)) }}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table>
</div>
{% for picture in under[table.name] %}{{ figure(picture) }}{% endfor %}
</section>
{% endfor %}
{% if under["figures"] %}
<section id="figures">
<h2>Other figures</h2>
{% for picture in under["figures"] %}{{ figure(picture) }}{% endfor %}
</section>
{% endif %}
<section id="run">
<h2>How this was made</h2>
<dl>
{% for name, value in facts.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}</dl>
</section>
</main>
<footer><p>{{ notice }}</p></footer>
</body>
</html>
"""


def evaluation_page(
    title: str, tables: Sequence[Table], pictures: Sequence[Picture], *, facts: Mapping[str, Any]
) -> str:
    """The page as text; pictures are part of it, and it asks for nothing else.

    Args:
        title: heading.
        tables, pictures: in their order.
        facts: command, data, settings and versions, by name.
    """
    names = [table.name for table in tables]
    under: dict[str, list[Picture]] = {name: [] for name in (*names, "figures")}
    for picture in pictures:
        under[picture.section if picture.section in names else "figures"].append(picture)
    page = Environment(autoescape=True, trim_blocks=False).from_string(TEMPLATE)
    return page.render(
        title=title,
        tables=tables,
        under=under,
        texts={table.name: _text_columns(table) for table in tables},
        facts=facts,
        notice=RESEARCH_USE,
        shown=shown,
        embedded=_embedded,
    )


def _text_columns(table: Table) -> set[str]:
    """Columns of words, which stand on the left."""
    return {key for key in table.columns if any(isinstance(row.get(key), str) for row in table.rows)}


def _embedded(picture: Picture) -> str:
    kind = mimetypes.guess_type(picture.path.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(picture.path.read_bytes()).decode()}"
