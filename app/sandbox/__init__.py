"""A local stand-in for Fireworks, Featherless, DeepInfra and Chutes, for development and tests.

`python -m app.sandbox --port 0` serves it; `wsgi.create_app` builds it. It imports nothing else of `app`, and
production never starts it. Its responses cannot be mistaken for real ones: each has `x-sandbox: 1`, every model is
owned by `sandbox`, every text that it makes up begins with `[sandbox]`, and GET / lists everything that it offers.

The modules: `wsgi` (paths), `providers` (the four in one table), `request_frame` (common parts of all requests),
`chat`, `text_completions` (without messages), `embeddings` and `rerank` (`vectors` compares texts), `choices` (the text
and tool calls), `scripts` (answers dictated by a prompt), `samples` (values for a schema), `events` (the chunks of a
stream), `faults` (broken streams), `tokens` (token counting: the system messages at the start count as cached).
docs/sandbox.md describes it for its users.
"""
