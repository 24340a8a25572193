"""The documentation that ships with the gateway, at `/docs/`, and Swagger UI for its API, at `/docs/api`.

pages.py      the table of pages         rendering.py  Markdown → HTML
library.py    pages and search           swagger.py    the files of Swagger UI
routes.py     the paths                  templates/, static/
"""

from app.docs_site.routes import bp

__all__ = ["bp"]
