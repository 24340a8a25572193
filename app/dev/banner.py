"""The text that `make run` prints once the gateway is up: address, key, provider and database, and a curl command."""

from __future__ import annotations

_BANNER = """
  The gateway is at http://{address}
  Key       {key}
  Models    {backend}
  Database  {database}
  Dashboard http://{address}/dashboard/link?token={token}
            This link signs you in once, within five minutes; later: bin/gateway dashboard link

  Try it:

curl -X POST http://{address}/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer {key}" \\
  -d '{{
    "model": "accounts/fireworks/models/deepseek-v3p1",
    "provider": "fireworks",
    "messages": [
      {{"role": "user", "content": "Hello!"}}
    ]
  }}'

  To stream, add  "stream": true  to the body and  -N  to curl.
  Ctrl-C stops everything; the database keeps its data.
"""

_REACHED_AS_LOCALHOST = ("127.0.0.1", "0.0.0.0", "::1", "::")  # noqa: S104

_SANDBOX = """the SANDBOX, a local stand-in: no request leaves this machine.
            Its prompts can dictate answers and its models fail on demand: docs/sandbox.md.
            For the real Fireworks put FIREWORKS_API_KEY=... into .env.local and run again."""


def make_banner(
    host: str, port: int, key: str, *, fireworks_url: str | None, database_url: str | None, token: str
) -> str:
    """Returns the text.

    Args:
        host, port: the address of the gateway.
        key: the text after `Bearer` in the curl line.
        fireworks_url: base URL of the real provider; None if the sandbox is used.
        database_url: address of the embedded PostgreSQL; None if DATABASE_URL was set.
        token: the token of a one-time link that signs in to the dashboard.
    """
    backend = f"{fireworks_url} (FIREWORKS_API_KEY is set)" if fireworks_url else _SANDBOX
    embedded = f"embedded PostgreSQL in var/postgres; for other commands:\n            DATABASE_URL='{database_url}'"
    database = embedded if database_url else "the one that DATABASE_URL names"
    name = f"[{host}]" if ":" in host else host
    address = f"{'localhost' if host in _REACHED_AS_LOCALHOST else name}:{port}"
    return _BANNER.format(address=address, key=key, backend=backend, database=database, token=token)
