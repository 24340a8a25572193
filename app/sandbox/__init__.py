"""A local stand-in for Fireworks, Featherless, DeepInfra and Chutes, to develop and test against.

`python -m app.sandbox --port 0` serves it; `wsgi.create_app` builds it. It imports nothing else of `app`,
and production never starts it. Its responses cannot be mistaken for real ones: each has `x-sandbox: 1`, every model is
owned by `sandbox`, every text begins with `[sandbox]`, and GET / lists everything that it offers.

Where to look: `wsgi` (paths), `providers` (the four in one table), `chat` (one request from key to response),
`text_completions` (the same without messages), `embeddings` and `rerank` (`vectors` compares texts), `choices` (the
text and tool calls), `events` (the chunks of a stream), `faults` (how streams are broken), `tokens` (how tokens are
counted: the system messages at the start count as cached).

Models that misbehave, at Fireworks as `accounts/fireworks/models/<name>`, at the others as
`sandbox/<name>`. A number at the end of a name replaces the default, as in `sandbox-stall-10`.

====================================  ==================================================================
name                                  what it does
====================================  ==================================================================
sandbox-401, -402, -403, -404         refuses the key, asks for payment, forbids, is not deployed
sandbox-412                           the account is suspended (the message names the account)
sandbox-422                           a list of validation details
sandbox-429                           rate limited, no retry-after
sandbox-429-retry-after               rate limited, `retry-after: 2` (seconds)
sandbox-500, sandbox-503              an internal error; overloaded
sandbox-502-html                      an HTML page from the edge
sandbox-503-scaling                   a deployment scaling up from zero
sandbox-flaky                         503 to the first attempt (attempts) of each prompt, then succeeds
sandbox-slow-headers                  10 s before the status line
sandbox-slow-first-token              headers at once, 10 s before the first event
sandbox-stall                         silent forever after 3 events
sandbox-cut-after-3                   connection closed after 3 events, no last chunk
sandbox-reset-after-3                 connection reset (RST) after 3 events
sandbox-clean-end                     ends cleanly after 3 events, no finish_reason, no [DONE]
sandbox-no-done                       finish_reason but no [DONE]
sandbox-error-event                   an error event after 3 events; unstreamed: 500
sandbox-garbage                       lines that are neither SSE nor JSON
sandbox-drip                          1 byte a second
sandbox-huge-event                    one event with 100,000 bytes of text
sandbox-crlf                          CRLF line ends and comment lines
====================================  ==================================================================

Without streaming, stall, cut and reset happen after half of the body, drip and slow-first-token slow it down, garbage
is a 200 whose body is not JSON, and the other stream faults do nothing.
"""
