"""What `make run` says once the gateway answers: where it is, a curl to paste, and who answers it."""

from __future__ import annotations

_BANNER = """
  The gateway answers at http://localhost:{port}
  Key       {key}
  Models    {backend}
  Database  {database}

  Try it:

curl -X POST http://localhost:{port}/v1/chat/completions \\
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
  Ctrl-C stops everything; the database keeps what it has.
"""

_SANDBOX = """the SANDBOX, a local stand-in: no request leaves this machine.
            For the real Fireworks put FIREWORKS_API_KEY=... into .env.local and run again."""


def make_banner(port: int, key: str, *, fireworks_url: str | None, database_url: str | None) -> str:
    """Returns the text.

    Args:
        key: what stands after `Bearer` in the curl line.
        fireworks_url: base URL of the real provider, None when the sandbox plays it.
        database_url: address of the embedded PostgreSQL, None when DATABASE_URL was set.
    """
    backend = f"{fireworks_url} (FIREWORKS_API_KEY is set)" if fireworks_url else _SANDBOX
    embedded = f"embedded PostgreSQL in var/postgres; for other commands:\n            DATABASE_URL='{database_url}'"
    database = embedded if database_url else "as DATABASE_URL says"
    return _BANNER.format(port=port, key=key, backend=backend, database=database)
