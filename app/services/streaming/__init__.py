"""Streams: Server-Sent Events from a provider to a client.

sse.py                 framing: splits bytes into events
event_reader.py        interprets events by the endpoint's protocol
relay.py               sockets, clocks, heartbeat
passage.py             the fast path for nearly all events, past these three
client_connection.py   whether the client is still connected, and how events are sent to it
"""

from app.services.streaming.client_connection import Channel, ClientConnection
from app.services.streaming.event_reader import EventReader
from app.services.streaming.relay import PRESENCE_CHECK_S, Relay

__all__ = ["PRESENCE_CHECK_S", "Channel", "ClientConnection", "EventReader", "Relay"]
