"""The reason for refusing a reload, extracted from the output of its check."""

from __future__ import annotations

import pytest

from app.server.reload import OTHER_ADDRESS, _Checked, _read_problem

TRACEBACK = (
    'Traceback (most recent call last):\n  File "/srv/gunicorn.conf.py", line 3\n    def x(:\nSyntaxError: invalid\n'
)


@pytest.mark.parametrize(
    ("code", "output", "reason"),
    [
        (0, "", None),
        (OTHER_ADDRESS, "", None),
        (1, "The gateway cannot start: PORT is 'x'.\n", "PORT is 'x'."),
        (1, '{"event":"a"}\nThe gateway cannot start: B.\n', "B."),
        (1, TRACEBACK, 'SyntaxError: invalid (File "/srv/gunicorn.conf.py", line 3)'),
        (1, "", "the check of the new settings and code ended with code 1 and said nothing. Try again."),
        (-9, "", "the check of the new settings and code was ended by SIGKILL and said nothing. Try again."),
    ],
)
def test_the_reason_says_what_and_where(code: int, output: str, reason: str | None) -> None:
    assert _read_problem(_Checked(code, output)) == reason


def test_a_full_file_system_in_memory_is_named() -> None:
    reason = _read_problem(_Checked(-7, ""))
    assert reason is not None and "SIGBUS (a file system in memory is full" in reason
