"""The cases: each one measures its subjects in turn, once for each repeat.

chat.py     requests and streams        resources.py   start, memory, recording, shipping
catalog.py  lists of models, statistics    embeddings.py  vectors, and streams beside them
limits.py   how exactly a budget is kept, and the cost of limits per request
pages.py    the dashboard             prompts.py     streams beside large prompts
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.cases import catalog, chat, embeddings, limits, pages, prompts, resources
from benchmarks.results import Results
from benchmarks.stage import Stage

# The cases by their names for --cases, in the order in which they run.
CASES: dict[str, Callable[[Stage, Results], None]] = {
    "start": resources.measure_start,
    "requests": chat.measure_requests,
    "prompt": chat.measure_large_prompts,
    "beside": prompts.measure_streams_beside,
    "streams": chat.measure_streams,
    "short": chat.measure_short_streams,
    "translated": chat.measure_translated,
    "tls": chat.measure_tls,
    "embeddings": embeddings.measure_embeddings,
    "recording": resources.measure_recording,
    "workers": resources.measure_workers,
    "catalog": catalog.measure_catalog,
    "shipping": resources.measure_shipping,
    "stats": catalog.measure_stats,
    "limits": limits.measure_limits,
    "limited": limits.measure_limit_costs,
    "pages": pages.measure_pages,
}
