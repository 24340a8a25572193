"""Merges the counts of failed attempts by minute, and deletes those that no window needs any more.

The trigger of migration 0012 only inserts, a row for each batch of records, so that writers never wait for each other.
While a target is down there are thousands of them in half an hour, which every worker reads again and again; merged
once a minute, they are at most one for each minute and target.
"""

from __future__ import annotations

# How long counts are kept; the quality of models is that of the last half hour.
KEPT_MINUTES = 60

# The oldest row is as old as this before the rows are merged, so all processes together merge about once a minute.
MERGE_INTERVAL_S = 60

# Merges of two processes may overlap: the second then finds the rows deleted and adds nothing.
MERGE_FAILED_ATTEMPTS = f"""
    WITH taken AS (DELETE FROM failed_attempt RETURNING minute, gateway, model, requests)
    INSERT INTO failed_attempt (minute, gateway, model, requests)
    SELECT minute, gateway, model, sum(requests) FROM taken
    WHERE minute >= now() - interval '{KEPT_MINUTES} minutes' GROUP BY minute, gateway, model"""

# A row from the future is due too: the clock was set back.
IS_MERGE_DUE = f"""EXISTS (SELECT FROM (SELECT created_at FROM failed_attempt ORDER BY id LIMIT 1) AS oldest
    WHERE created_at NOT BETWEEN now() - interval '{MERGE_INTERVAL_S} s' AND now())"""
