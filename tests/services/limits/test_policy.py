"""The models that a key's patterns allow."""

from __future__ import annotations

import pytest

from app.services.limits import Policy

OFFICIAL = "accounts/fireworks/models/deepseek-v3p1"
FOREIGN = "accounts/somebody/models/deepseek-v3p1"


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        # A star also matches slashes, so a model of that name in another account is allowed, as documented.
        ("*/deepseek-v3p1", [OFFICIAL, FOREIGN, f"{OFFICIAL}#accounts/me/deployments/x"], ["deepseek-v3p2"]),
        ("Fireworks/*DeepSeek-v3p1", [OFFICIAL, FOREIGN, "not-deepseek-v3p1"], ["deepseek-v3p1-fast"]),
        (f"fireworks/{OFFICIAL}", [OFFICIAL], [FOREIGN, f"{OFFICIAL}-fast", f"x/{OFFICIAL}"]),
        ("fireworks/accounts/fireworks/*", [OFFICIAL], [FOREIGN]),
        # No other character is special.
        ("fireworks/a?[bc]", ["a?[bc]", "A?[BC]"], ["axb", "a?b", "a?c"]),
        ("chutes/*", [], [OFFICIAL]),
    ],
)
def test_a_pattern_matches_as_documented(pattern: str, allowed: list[str], refused: list[str]) -> None:
    policy = Policy((), ((pattern,), ("*",)), None)
    assert [model for model in [*allowed, *refused] if policy.allows("fireworks", model)] == allowed
