"""A request as a command and as programs, to be copied. The key stays in the environment of the person who runs them.

In the JSON of the body, apostrophes are escaped, so it fits between the apostrophes of a shell and of Python, and JSON
is also JavaScript. The page's script inserts bodies into the same texts.
"""

from __future__ import annotations

import json
from typing import Any

ADDRESS, BODY = "{address}", "{body}"

TEMPLATES: dict[str, str] = {
    "curl": """curl -N '{address}' \\
  -H "Authorization: Bearer $GATEWAY_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{body}'""",
    "Python": """import json, os, urllib.request

body = json.loads(r'''{body}''')
request = urllib.request.Request("{address}", json.dumps(body).encode(), {
    "Authorization": "Bearer " + os.environ["GATEWAY_API_KEY"],
    "Content-Type": "application/json",
})
with urllib.request.urlopen(request) as response:
    for line in response:
        print(line.decode(), end="")""",
    "Node": """const response = await fetch("{address}", {
  method: "POST",
  headers: {
    Authorization: "Bearer " + process.env.GATEWAY_API_KEY,
    "Content-Type": "application/json",
  },
  body: JSON.stringify({body}),
});
if (!response.ok) throw new Error(await response.text());
for await (const piece of response.body) process.stdout.write(piece);""",
}


def write_calls(address: str, body: dict[str, Any]) -> dict[str, str]:
    """Returns language → the code that sends a request.

    Args:
        address: the address of the endpoint.
        body: the body of the request.
    """
    text = json.dumps(body, ensure_ascii=False, indent=2).replace("'", "\\u0027")
    return {name: code.replace(ADDRESS, address).replace(BODY, text) for name, code in TEMPLATES.items()}
