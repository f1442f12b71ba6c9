"""Small PNG pictures side by side in one SVG, enlarged without smoothing."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path

SIDE, GAP, CAPTION = 256, 16, 28  # pixels


def pictures_side_by_side(pictures: dict[str, Path]) -> str:
    """An SVG document of the PNG files, each under its caption."""
    parts = []
    for place, (caption, path) in enumerate(pictures.items()):
        left = GAP + place * (SIDE + GAP)
        data = b64encode(path.read_bytes()).decode()
        parts.append(
            f'<text x="{left}" y="{GAP + 4}">{escape(caption)}</text>'
            f'<image x="{left}" y="{CAPTION}" width="{SIDE}" height="{SIDE}" style="image-rendering: pixelated" '
            f'href="data:image/png;base64,{data}"/>'
        )
    width, height = GAP + len(pictures) * (SIDE + GAP), CAPTION + SIDE + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="14">{"".join(parts)}</svg>\n'
    )
