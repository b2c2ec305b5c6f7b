"""What people look at in a browser: the error curve of a result as a picture, and a page about one result."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw_curve", "render_report"]

INK, PAPER, LINE, FIT, ACCENT = "#e8e8e8", "#090c29", "#7fb2ff", "#9a9a9a", "#ff6b57"
TAIL = 3
"""Points at the curve's steep end that must not squeeze the rest."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1d24; max-width: 58rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } header p { overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { font-size: 1.25rem; font-weight: 600; }
.note { border-left: 4px solid #b3261e; padding: .4rem .8rem; background: #fbeceb; }
.warning { border-left: 4px solid #b26a00; padding: .4rem .8rem; background: #fdf3e3; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem 1rem .25rem 0; }
td, th { border-bottom: 1px solid #d9dbe2; vertical-align: top; } td.number { text-align: right; }
td { overflow-wrap: anywhere; } img { max-width: 100%; height: auto; border-radius: 4px; }
@media print { body { margin: 0; max-width: none; font-size: 11pt; } h2 { break-after: avoid; }
  img, tr, p { break-inside: avoid; } .overview { max-height: 20cm; } * { print-color-adjust: exact; } }
"""


def draw_curve(params: Mapping[str, Any]) -> bytes:
    """Draw the error curve, its fit and the threshold as a PNG of 640 x 320 pixels on a dark ground.

    Args:
        params: a result with ``curve``, and where they exist ``fit`` and ``threshold``.
    """
    figure = Figure(figsize=(6.4, 3.2), dpi=100, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    curve = np.array([np.nan if value is None else value for value in params.get("curve") or []], dtype=float)
    percent = np.arange(1, curve.size + 1) * (100 / max(curve.size, 1))
    axes.plot(percent, curve, color=LINE, lw=2.5, label="this scan")
    _draw_fit(axes, params.get("fit") or {}, percent)
    threshold = params.get("threshold")
    if threshold is not None:
        axes.axhline(threshold, color=ACCENT, lw=2, label=f"threshold {threshold:.3g}")
    shown = curve[: max(curve.size - TAIL, 1)]
    axes.set_ylim(0, 1.1 * max([*shown[np.isfinite(shown)], threshold or 0, 1e-3]))
    _dress(axes)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()


def render_report(params: Mapping[str, Any], details: Mapping[str, Any], picture: bytes | None) -> str:
    """Write one HTML page that needs no network.

    Args:
        params: the result as ``/infer`` returned it.
        details: the ``result.json`` of the run, for settings and geometry; may be empty.
        picture: a PNG, or none.
    """
    series = params.get("series") or {}
    image = params.get("image") or "scan"
    name = series.get("description") or image
    subject = f"{series['description']}, series {series.get('uid') or image}" if series.get("description") else image
    body = [
        f"<header><h1>IterMask3D report</h1><p>{_text(subject)}</p></header>",
        f'<main><p class="note">{_text(params.get("note") or "For research use only, not for diagnosis.")}</p>',
        f'<p class="verdict">{_text(params.get("headline") or params.get("verdict"))}</p>',
        *(f'<p class="warning">{_text(warning)}</p>' for warning in params.get("warnings") or []),
        _section("Result", _pairs(_facts(params))),
        _section("Picture", _image(picture, "Three planes of the scan with what the network expected, the difference "
                                            "and the flagged region", "overview")) if picture else "",
        _section("Error curve", _image(draw_curve(params), _curve_in_words(params), "curve")),
        _section("Flagged regions", _regions(params.get("components") or [])),
        _section("Settings", _pairs(_flat({**details.get("preprocessing", {}), **details.get("settings", {})}))),
        _section("Versions", _pairs(_flat(params.get("versions") or details.get("versions") or {}))),
        "</main>",
    ]  # fmt: skip
    head = f"<meta charset='utf-8'><title>IterMask3D: {_text(name)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(body)}</body></html>"


def _draw_fit(axes: Axes, fit: Mapping[str, Any], percent: np.ndarray) -> None:
    a, b, r_squared = fit.get("a"), fit.get("b"), fit.get("r_squared")
    if a is None or b is None:
        return
    values = a * np.tan(b * percent)
    quality = "" if r_squared is None else f", R² {r_squared:.2f}"
    axes.plot(percent, np.where(values >= 0, values, np.nan), "--", color=FIT, lw=1.8, label=f"fit{quality}")


def _dress(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the brain unmasked (%)", color=INK, fontsize=12)
    axes.set_ylabel("error", color=INK, fontsize=12)
    axes.tick_params(colors=INK, labelsize=11)
    for spine in axes.spines.values():
        spine.set_color("#4a4f6a")
    axes.legend(facecolor=PAPER, labelcolor=INK, edgecolor="#4a4f6a", loc="upper left", fontsize=11)


def _curve_in_words(params: Mapping[str, Any]) -> str:
    threshold = params.get("threshold")
    end = "no threshold was found" if threshold is None else f"the threshold is {threshold:.3g}"
    return f"Curve of the error against the share of the brain unmasked in the sweep; {end}"


def _facts(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    volumes = params.get("volumes_ml") or {}
    percentile = params.get("percentile_among_normals")
    share = params.get("flagged_share")
    facts = [
        ("Outcome", str(params.get("outcome", "")).replace("_", " ")),
        ("In figures", str(params.get("verdict") or "–")),
        ("Score", _number(params.get("score"), ".4f")),
        ("Among normal scans", "not calibrated" if percentile is None else _rank(percentile)),
        ("Flagged volume", f"{_number(volumes.get('anomaly'), '.2f')} ml"),
        ("Flagged share of the brain", "–" if share is None else f"{100 * share:.2f} %"),
        ("Brain volume", f"{_number(volumes.get('brain'), '.0f')} ml"),
        *((f"Of it {band}", f"{_number(volumes[band], '.2f')} ml") for band in ("mild", "moderate", "severe")
          if band in volumes),
        ("Threshold", f"{_number(params.get('threshold'), '.4g')} ({params.get('threshold_status', '')})"),
    ]  # fmt: skip
    chosen = params.get("chosen_model") or {}
    if chosen.get("name"):
        facts.append(("Model", f"{chosen['name']}. {chosen['reason']}"))
    latency = (params.get("latencies") or {}).get("total")
    return facts if latency is None else [*facts, ("Run time", f"{latency:.1f} s")]


def _rank(percentile: float) -> str:
    return "higher than all" if round(percentile) >= 100 else f"higher than {percentile:.0f} %"


def _regions(components: Sequence[Mapping[str, Any]]) -> str:
    if not components:
        return "<p>None.</p>"
    rows = (
        f"<tr><td>{_text(part.get('index'))}</td><td>{_text(part.get('severity') or '–')}</td>"
        f"<td>{_text(part.get('place') or '–')}</td><td class='number'>{_number(part.get('volume_ml'), '.1f')}</td>"
        f"<td>{_text(', '.join(f'{value:.0f}' for value in part.get('centroid_mm') or []))}</td>"
        f"<td class='number'>{_number(part.get('peak_error'), '.3g')}</td></tr>"
        for part in components
    )
    heads = ("Region", "Severity", "Place", "Volume (ml)", "Centre: right, anterior, superior (mm)", "Largest error")
    head = "".join(f"<th scope='col'>{name}</th>" for name in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _pairs(pairs: Iterable[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><th scope='row'>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in pairs)
    return f"<table>{rows}</table>" if rows else "<p>Not recorded.</p>"


def _image(png: bytes, words: str, kind: str) -> str:
    return f'<img class="{kind}" alt="{_text(words)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines: ``refinement.shrink: 0.1``."""
    lines: list[tuple[str, str]] = []
    for key, value in values.items():
        lines += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", str(value))]
    return lines


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "–"


def _text(value: Any) -> str:
    return escape("" if value is None else str(value))
