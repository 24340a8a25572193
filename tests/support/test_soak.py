"""Every test that only `make soak` runs has a short form in `make test`."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.tree import ROOT


def test_every_test_for_make_soak_alone_names_a_short_form_that_there_is() -> None:
    files = {path: path.read_text() for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)}
    named = [form for text in files.values() for form in re.findall(r'soak_only\(\s*"([^"]+)"', text)]
    assert len(named) == sum(text.count("soak_only(") for text in files.values()) > 0
    for form in named:
        path, _, name = form.partition("::")
        before, found, _ = files[ROOT / "tests" / path].partition(f"\ndef {name}(")
        assert found and "@soak_only" not in f"{before}\n".rpartition("\n\n\n")[2], form
        assert "\npytestmark = soak_only" not in before, form
