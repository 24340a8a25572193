"""Merges the counts of failed attempts by minute, and deletes those that no window needs any more.

The trigger of migration 0012 only inserts, one row for each batch of records, so that writers never wait for each
other. While a target is down, half an hour has thousands of rows, which every worker reads again and again; merged once
a minute, there is at most one row for each minute and target.
"""

from __future__ import annotations

# How long counts are kept, in minutes; the quality of models is measured over the last half hour.
KEPT_MINUTES = 60

# Rows are merged once the oldest is this old, so all processes together merge about once a minute.
MERGE_INTERVAL_S = 60

# Merges of two processes may overlap: the second finds the rows deleted and adds nothing.
MERGE_FAILED_ATTEMPTS = f"""
    WITH taken AS (DELETE FROM failed_attempt RETURNING minute, gateway, model, requests)
    INSERT INTO failed_attempt (minute, gateway, model, requests)
    SELECT minute, gateway, model, sum(requests) FROM taken
    WHERE minute >= now() - interval '{KEPT_MINUTES} minutes' GROUP BY minute, gateway, model"""

# A row from the future is due too, because then the clock was set back.
IS_MERGE_DUE = f"""EXISTS (SELECT FROM (SELECT created_at FROM failed_attempt ORDER BY id LIMIT 1) AS oldest
    WHERE created_at NOT BETWEEN now() - interval '{MERGE_INTERVAL_S} s' AND now())"""
