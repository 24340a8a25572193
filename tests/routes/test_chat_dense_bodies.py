"""A body of millions of objects or numbers is refused with a reason, and a merely large one is served."""

from __future__ import annotations

from tests.support.answers import chat_answer
from tests.support.chat import PREFIX, post
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream


def test_millions_of_objects_or_numbers_are_refused_and_as_many_as_a_context_has_are_not(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.on_model("dense", chat_answer("Hello!"))
    start = b'{"model":"%bdense","messages":[{"role":"user","content":"x"}],"more":[' % PREFIX.encode()

    refused = post(scripted_gateway, start + b"{}," * 4_000_000 + b"1]}")

    assert (refused.status, refused.error["code"]) == (400, "too_many_elements")
    assert refused.error["message"].startswith("The body has more than 100,000 objects, arrays and keys.")
    refused = post(scripted_gateway, start + b"1," * 4_000_000 + b"1]}")
    assert (refused.status, refused.error["code"]) == (400, "too_many_elements")
    assert refused.error["message"].startswith("The body has more than 300,000 values.")
    assert post(scripted_gateway, start + b"1," * 290_000 + b"1]}").status == 200
