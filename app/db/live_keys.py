"""All live keys with their limits in one statement, which each worker sends every two seconds."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, text

# An expired key stays for a while, so its caller learns why it does not work without a query for each request.
_IS_LIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now() - interval '7 days')"

# The fingerprint is made of sums, so that no sorting is needed. The keys come in parts, because each part is parsed
# without a pause. If the fingerprint is unchanged, PostgreSQL does not execute the queries of the parts. Only the
# gateway's own limits bind an operator's key, so it has no holder here. A key without any of this has a shorter row.
_SELECT_LIVE_KEYS = text(f"""
    SELECT live.fingerprint, parts.keys, parts.subjects, empty.tables AS empty
    FROM (
        SELECT array_remove(ARRAY[
            CASE WHEN NOT EXISTS (SELECT FROM api_key) THEN 'api_key' END,
            CASE WHEN NOT EXISTS (SELECT FROM subject) THEN 'subject' END,
            CASE WHEN NOT EXISTS (SELECT FROM budget) THEN 'budget' END], NULL) AS tables
    ) empty, (
        SELECT keys.fingerprint || ' ' || subjects.fingerprint || ' ' || budgets.fingerprint AS fingerprint
        FROM (
            SELECT count(*) || ':' || coalesce(sum(
                hashtextextended(name, hashtextextended(id, hashtextextended(coalesce(holder_id, ''),
                hashtextextended(coalesce(expires_at::text, ''),
                hashtextextended(encode(digest, 'hex'), is_operator::integer)))))
            ), 0) AS fingerprint
            FROM api_key WHERE {_IS_LIVE}
        ) keys, (
            SELECT coalesce(sum(hash_record_extended(subject, 0)), 0) AS fingerprint FROM subject
        ) subjects, (
            SELECT coalesce(sum(hash_record_extended(budget, 0)), 0) AS fingerprint FROM budget WHERE ended_at IS NULL
        ) budgets
    ) live
    LEFT JOIN LATERAL (
        SELECT json_object_agg(encode(digest, 'base64'),
            CASE WHEN holder_id IS NULL AND expires_at IS NULL AND NOT is_operator THEN json_build_array(id, name)
            ELSE json_build_array(id, name, floor(extract(epoch FROM expires_at))::bigint,
                CASE WHEN is_operator THEN '' ELSE coalesce(holder_id, '') END, is_operator) END
        )::text AS keys, NULL AS subjects
        FROM api_key WHERE {_IS_LIVE} AND live.fingerprint <> :held
        GROUP BY hashtext(id) & 15
        UNION ALL
        SELECT NULL, json_agg(json_build_array(
            id, kind, name, group_id, models, requests_per_minute, tokens_per_minute, concurrent, max_output_tokens,
            coalesce(budgets.of_subject, '[]')
        ))::text
        FROM subject
        LEFT JOIN (
            SELECT subject_id, json_agg(json_build_array(
                id, unit, trim_scale(amount)::text, time_window, timezone, first_day, warn_percents
            ) ORDER BY id) AS of_subject
            FROM budget WHERE ended_at IS NULL GROUP BY subject_id
        ) budgets ON budgets.subject_id = subject.id
        WHERE live.fingerprint <> :held
        GROUP BY hashtext(id) & 7
    ) parts ON true
""")


class LiveKeyParts(NamedTuple):
    """The keys that are not revoked and did not expire over a week ago, and all subjects, at one moment.

    Attributes:
        fingerprint: changes with any of these keys, subjects and their budgets.
        key_parts: JSON objects of base64 of a digest → [id, name, expires_at, holder_id, is_operator] or [id, name],
            which have all keys together; None if the caller has them already.
        subject_parts: JSON lists of subjects, with the fields of app.services.limits.Subject in its order, which have
            all subjects together; None as above.
        empty: those of the tables api_key, subject and budget without any row, even a revoked or ended one.
    """

    fingerprint: str
    key_parts: list[str] | None
    subject_parts: list[str] | None
    empty: frozenset[str] = frozenset()


def select_live_keys(connection: Connection, held: str) -> LiveKeyParts:
    """Returns the live keys with all subjects, or only their fingerprint if that is `held`, in one round trip.

    Args:
        held: the fingerprint of the caller's data; "" if it has none.
    """
    rows = connection.execute(_SELECT_LIVE_KEYS, {"held": held}).all()
    fingerprint = rows[0].fingerprint
    if fingerprint == held:
        return LiveKeyParts(fingerprint, None, None)
    # Everything is read from the same snapshot as the fingerprint.
    return LiveKeyParts(
        fingerprint,
        [row.keys for row in rows if row.keys is not None],
        [row.subjects for row in rows if row.subjects is not None],
        frozenset(rows[0].empty),
    )
