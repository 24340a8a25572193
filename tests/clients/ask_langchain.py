"""Asks with LangChain for a chat and for embeddings; see test_langchain.py.

Reads `{"url", "key", "chat", "embedding"}` and prints the result of each call.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import openai
import tiktoken
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

# OpenAI's own tokenizer would be fetched from the network. This one makes each byte a token, which is enough here:
# LangChain only has to send ids of a tokenizer that is not the model's.
BYTES = tiktoken.Encoding(
    "bytes", pat_str="(?s).", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={}
)
tiktoken.get_encoding = lambda name: BYTES  # type: ignore[assignment]
TEXTS = ["The cat sat on the mat.", "A cat sat on a mat."]

job = json.load(sys.stdin)
more: dict[str, Any] = {"base_url": f"{job['url']}/v1", "api_key": job["key"], "max_retries": 0}
chat = ChatOpenAI(model=job["chat"], **more)
found: dict[str, Any] = {
    "invoked": chat.invoke("Hello!").content,
    "streamed": "".join(str(chunk.content) for chunk in chat.stream("Hello!")),
}
embeddings = OpenAIEmbeddings(model=job["embedding"], check_embedding_ctx_length=False, **more)
found["vectors"] = embeddings.embed_documents(TEXTS)
found["query"] = embeddings.embed_query(TEXTS[0])
try:
    OpenAIEmbeddings(model=job["embedding"], **more).embed_documents(TEXTS)
except openai.BadRequestError as error:
    found["advice"] = str(error)
print(json.dumps(found))
