"""Pages are rendered from a worker's first request on, even if several come at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from app.layout import rendering


def test_pages_that_are_asked_for_while_the_templates_are_compiled_wait_for_them() -> None:
    rendering._make_environment.cache_clear()
    with ThreadPoolExecutor(6) as pool:
        environments = list(pool.map(lambda _: rendering._get_environment(), range(6)))
    assert len({id(environment) for environment in environments}) == 1
    assert {"base.html", "error.html"} <= set(environments[0].list_templates())
