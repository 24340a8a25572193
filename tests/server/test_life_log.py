"""The addresses at which the gateway logs that it listens."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

from app.server.life_log import describe_sockets


def test_each_kind_of_socket_is_named_by_its_own_address(tmp_path: Path) -> None:
    places = [
        (socket.AF_INET, ("127.0.0.1", 0)),
        (socket.AF_INET6, ("::1", 0)),
        (socket.AF_UNIX, str(tmp_path / "s")),
        (socket.AF_UNIX, f"\0gateway-{tmp_path.name}"),
    ]
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket(family)) for family, _ in places]
        for listener, (_, place) in zip(listeners, places, strict=True):
            listener.bind(place)
        ports = [listener.getsockname()[1] for listener in listeners[:2]]
        # The addresses of the settings differ from the sockets', as with sockets that systemd has opened.
        server = SimpleNamespace(LISTENERS=listeners, cfg=SimpleNamespace(address=[("0.0.0.0", 8000)]))
        assert describe_sockets(server) == [
            f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}", f"unix:{tmp_path}/s", f"unix:@gateway-{tmp_path.name}"
        ]  # fmt: skip
        server.LISTENERS = []
        assert describe_sockets(server) == ["0.0.0.0:8000"]
