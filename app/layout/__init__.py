"""The common parts of all HTML pages: the base template, the style sheet and the script, and the headers of their
responses.

rendering.py    templates → responses, with the headers that keep a page safe
assets.py       the style sheet and the script, at addresses that change with their content
navigation.py   the links of all pages
formats.py      numbers, times and money in readable form
static/, templates/
"""

from app.layout.assets import bp
from app.layout.formats import FILTERS
from app.layout.rendering import PAGE_HEADERS, get_root, make_address, redirect_to, render_page, render_text

# fmt: off
__all__ = [
    "FILTERS", "PAGE_HEADERS", "bp", "get_root", "make_address",
    "redirect_to", "render_page", "render_text",
]
# fmt: on
