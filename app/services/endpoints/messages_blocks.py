"""Content blocks of Anthropic's messages as the parts of chat messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.errors import BadRequest
from app.services.endpoints.endpoint import make_parameter_error

Omit = Callable[[str], None]

# Fields of each kind of block that have a counterpart, or no meaning for a model.
_KNOWN = {
    "text": {"text"},
    "image": {"source"},
    "document": {"source", "title", "context"},
    "search_result": {"source", "title", "content"},
    "tool_reference": {"tool_name"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "tool_use": {"id", "name", "input"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}


def read_blocks(content: Any, path: str, omit: Omit) -> list[tuple[str, dict[str, Any]]]:
    """Returns the blocks of a content, which may also be a string, each with its path.

    Args:
        content: a string, a list of blocks, or None.
        path: its path, for errors.
        omit: gets the names of the fields that have no counterpart.

    Raises:
        BadRequest: it is neither, or a block has no known type.
    """
    if content is None:
        return []
    if isinstance(content, str):
        return [(path, {"type": "text", "text": content})]
    if not isinstance(content, list):
        raise make_parameter_error(path, "be a string or a list of content blocks")
    blocks = []
    for position, block in enumerate(content):
        where = f"{path}[{position}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str) or kind not in _KNOWN:
            is_missing = isinstance(block, dict) and kind is None
            raise make_parameter_error(f"{where}.type", f"be one of {', '.join(_KNOWN)}", is_missing=is_missing)
        for name, value in block.items():
            if name != "type" and name not in _KNOWN[kind] and value is not None:
                omit(f"content[].{name}")
        blocks.append((where, block))
    return blocks


def make_parts(block: dict[str, Any], path: str, omit: Omit) -> list[dict[str, Any]]:
    """Returns the parts of a chat message for one block of a user or of a tool's result.

    Raises:
        BadRequest: the block cannot be expressed in chat.
    """
    kind = block["type"]
    if kind == "text":
        return make_text_parts(_read_text(block, "text", path))
    if kind == "image":
        return [{"type": "image_url", "image_url": {"url": _make_image_url(block.get("source"), path)}}]
    if kind == "document":
        return _make_document_parts(block, path, omit)
    if kind == "search_result":
        texts = [block.get(name) for name in ("title", "source") if isinstance(block.get(name), str)]
        parts = _make_inner_parts(block.get("content"), f"{path}.content", omit)
        return [*make_text_parts("\n".join(text for text in texts if text)), *parts]
    if kind == "tool_reference":
        return make_text_parts(f"The tool {_read_text(block, 'tool_name', path)} is available now.")
    raise make_parameter_error(f"{path}.type", f"not be {kind} in a message of this role")


def make_text_parts(text: str) -> list[dict[str, Any]]:
    """Returns a text as parts: one, or none for an empty text."""
    return [{"type": "text", "text": text}] if text else []


def join_parts(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Returns parts as the content of a message: one text, or the parts if there are images."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts


def _read_text(block: dict[str, Any], name: str, path: str) -> str:
    text = block.get(name)
    if not isinstance(text, str):
        raise make_parameter_error(f"{path}.{name}", "be a string", is_missing=text is None)
    return text


def _make_inner_parts(content: Any, path: str, omit: Omit) -> list[dict[str, Any]]:
    return [part for where, block in read_blocks(content, path, omit) for part in make_parts(block, where, omit)]


def _make_image_url(source: Any, path: str) -> str:
    source = source if isinstance(source, dict) else {}
    if source.get("type") == "url" and isinstance(source.get("url"), str):
        return str(source["url"])
    data, kind = source.get("data"), source.get("media_type")
    if source.get("type") == "base64" and isinstance(data, str) and isinstance(kind, str):
        return f"data:{kind};base64,{data}"
    raise make_parameter_error(
        f"{path}.source", "have the type base64 with `media_type` and `data`, or url with `url`; files are not stored"
    )


def _make_document_parts(block: dict[str, Any], path: str, omit: Omit) -> list[dict[str, Any]]:
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    head = [block.get(name) for name in ("title", "context") if isinstance(block.get(name), str)]
    if source.get("type") == "text":
        body = make_text_parts(_read_text(source, "data", f"{path}.source"))
    elif source.get("type") == "content":
        body = _make_inner_parts(source.get("content"), f"{path}.source.content", omit)
    else:
        raise BadRequest(
            "Document blocks are not supported, except those whose source has the type text or content. Send the "
            "document's text.",
            param=f"{path}.source",
            code="unsupported_content",
        )
    return [*make_text_parts("\n".join(text for text in head if text)), *body]
