"""Creates the functions by which workers draw from budgets, rates and concurrent requests, and close what they drew.

They are functions of PL/pgSQL because each of their statements sees what was committed before it, also while it waited
for a lock. One statement of several CTEs would see the state from before the wait, and two draws would both grant the
same room. Their names have a version, so that workers of different versions can run side by side.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

# "leas" and "slot" in ASCII: the first numbers of the advisory locks on a worker's leases and a subject's slots.
WORKER_LOCK = 0x6C656173
SLOTS_LOCK = 0x736C6F74

# A draw that a dead worker sent may be carried out later; its version is at most a little above the last one's.
VERSION_MARGIN = 1_000_000

RATE_SLOTS = 122


def upgrade() -> None:
    op.add_column(
        "budget_lease",
        sa.Column(
            "kept",
            sa.Boolean(),
            nullable=False,
            server_default="false",
            comment="closed without giving the rest back, because charges may be missing",
        ),
    )
    op.add_column(
        "budget_lease",
        sa.Column(
            "spent",
            sa.Numeric(30, 12),
            nullable=False,
            server_default="0",
            comment="by requests that have ended, as the worker last said; their charges may be under way",
        ),
    )
    for statement in (DRAW_LEASES, CLOSE_LEASES, DRAW_PERMITS, DRAW_SLOTS):
        op.execute(sa.text(statement.replace(":=", r"\:=").replace("::", r"\:\:")))


def downgrade() -> None:
    op.execute("DROP FUNCTION draw_leases_v1, close_leases_v1, draw_permits_v1, draw_slots_v1")
    op.drop_column("budget_lease", "spent")
    op.drop_column("budget_lease", "kept")


# The lock on the worker keeps a draw from being carried out while or after its leases are closed.
DRAW_LEASES = f"""
CREATE FUNCTION draw_leases_v1(drawer text, wanted jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    pot record; owner record; period record; lease record;
    answers jsonb := '[]'; has_ended boolean; is_newer boolean; is_refused boolean;
    room numeric; total numeric; granted_sum numeric; base numeric; target numeric; charged numeric; quarter numeric;
    oldest bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({WORKER_LOCK}, hashtext(drawer));
    has_ended := EXISTS (
        SELECT FROM worker WHERE worker_id = drawer AND closed_how IN ('drained', 'adopted'));
    FOR pot IN
        SELECT * FROM jsonb_to_recordset(wanted) AS pots (budget bigint, period bigint, start_at timestamptz,
            end_at timestamptz, since timestamptz, version bigint, used numeric, spent numeric, held numeric,
            need numeric, firm numeric, want numeric)
        ORDER BY budget, start_at
    LOOP
        SELECT amount, unit, ended_at INTO owner FROM budget WHERE id = pot.budget FOR NO KEY UPDATE;
        CONTINUE WHEN NOT FOUND;
        SELECT granted, recalled_at, end_at INTO period FROM budget_period WHERE id = pot.period;
        IF NOT FOUND THEN
            INSERT INTO budget_period (id, budget_id, start_at, end_at)
            VALUES (pot.period, pot.budget, pot.start_at, pot.end_at) ON CONFLICT DO NOTHING;
            SELECT granted, recalled_at, end_at INTO period FROM budget_period WHERE id = pot.period;
        END IF;
        -- One that was made for a charge has no end yet.
        IF period.end_at IS NULL AND pot.end_at IS NOT NULL THEN
            UPDATE budget_period SET end_at = pot.end_at WHERE id = pot.period;
        END IF;
        SELECT owner.amount + sum(extra), sum(granted), min(id) FILTER (WHERE granted > 0)
        INTO total, granted_sum, oldest FROM budget_period
        WHERE budget_id = pot.budget AND start_at >= coalesce(pot.since, pot.start_at)
            AND (pot.since IS NOT NULL OR start_at = pot.start_at);
        SELECT version, drawn INTO lease FROM budget_lease WHERE period_id = pot.period AND worker_id = drawer;
        base := coalesce(lease.drawn, 0);
        is_newer := NOT has_ended AND pot.version > coalesce(lease.version, 0);
        target := base; is_refused := false; charged := NULL;
        IF is_newer THEN
            -- What is used is gone, so it is granted even above the amount. What the worker does not hold any more goes
            -- back first, so that several workers do not each keep too little for a request.
            target := greatest(least(base, coalesce(pot.held, base)), pot.used);
            room := CASE WHEN owner.ended_at IS NULL THEN total - granted_sum - (target - base)
                ELSE greatest(pot.want - target, 0) END;
            IF pot.want < target THEN
                target := greatest(pot.want, pot.used);
            ELSIF pot.want > target THEN
                is_refused := pot.need > target AND pot.need - target > room;
                quarter := trunc(room / 4, CASE owner.unit WHEN 'usd' THEN 12 ELSE 0 END);
                IF NOT is_refused AND room > 0 THEN
                    target := least(pot.want,
                        greatest(pot.need, least(pot.firm, target + room), target + quarter, target));
                END IF;
            END IF;
            INSERT INTO budget_lease (period_id, worker_id, version, drawn, spent)
            VALUES (pot.period, drawer, pot.version, target, pot.spent)
            ON CONFLICT (period_id, worker_id) DO UPDATE SET version = excluded.version, drawn = excluded.drawn,
                spent = excluded.spent, closed = false, kept = false;
            IF target <> base OR is_refused THEN
                UPDATE budget_period SET granted = granted + target - base,
                    recalled_at = CASE WHEN is_refused THEN clock_timestamp() ELSE recalled_at END
                WHERE id = pot.period RETURNING recalled_at INTO period.recalled_at;
            END IF;
            IF is_refused THEN
                -- The charges of requests that have just ended are still under way.
                SELECT coalesce(sum(most), 0) INTO charged
                FROM budget_period CROSS JOIN LATERAL (
                    SELECT max(amount) AS most FROM (
                        SELECT worker_id, exact + estimated + ceiling AS amount FROM budget_charge
                        WHERE period_id = budget_period.id
                        UNION ALL
                        SELECT worker_id, spent FROM budget_lease WHERE period_id = budget_period.id AND spent > 0
                    ) AS amounts
                    WHERE NOT (budget_period.id = pot.period AND worker_id = drawer)
                    GROUP BY worker_id) AS workers
                WHERE budget_id = pot.budget AND start_at >= coalesce(pot.since, pot.start_at)
                    AND (pot.since IS NOT NULL OR start_at = pot.start_at);
            END IF;
        END IF;
        answers := answers || jsonb_build_object('period', pot.period, 'version', greatest(pot.version, lease.version),
            'applied', is_newer, 'refused', is_refused, 'drawn', target::text, 'total', total::text,
            'granted', (granted_sum + target - base)::text, 'charged', charged::text,
            'ended', owner.ended_at IS NOT NULL, 'oldest', oldest,
            'recalled_s', extract(epoch FROM clock_timestamp() - period.recalled_at)::float8);
    END LOOP;
    RETURN jsonb_build_object('now', extract(epoch FROM now())::float8, 'pots', answers);
END
$function$"""

# `keep`: rows of the worker may be missing, so what it drew and was not charged stays granted.
CLOSE_LEASES = f"""
CREATE FUNCTION close_leases_v1(closed_worker text, keep boolean) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    result jsonb;
BEGIN
    PERFORM pg_advisory_xact_lock({WORKER_LOCK}, hashtext(closed_worker));
    DELETE FROM slot_lease WHERE worker_id = closed_worker;
    -- A worker may have served without a lease, while the database was away.
    INSERT INTO budget_period (id, budget_id, start_at)
    SELECT period_id, period_id >> 32, to_timestamp((period_id & 4294967295) * 60)
    FROM budget_charge
    WHERE worker_id = closed_worker AND EXISTS (SELECT FROM budget WHERE id = period_id >> 32)
    ON CONFLICT DO NOTHING;
    PERFORM FROM budget WHERE id IN (
        SELECT budget_id FROM budget_period WHERE id IN (
            SELECT period_id FROM budget_lease WHERE worker_id = closed_worker
            UNION SELECT period_id FROM budget_charge WHERE worker_id = closed_worker))
    ORDER BY id FOR NO KEY UPDATE;
    WITH charges AS (
        SELECT period_id, exact + estimated + ceiling AS charged FROM budget_charge WHERE worker_id = closed_worker),
    ends AS (
        SELECT budget_period.id AS period_id, coalesce(lease.drawn, 0) AS drawn, coalesce(charged, 0) AS charged,
            coalesce(lease.version, 0) AS version,
            CASE WHEN keep OR lease.kept THEN greatest(coalesce(lease.drawn, 0), coalesce(charged, 0))
                ELSE coalesce(charged, 0) END AS final
        FROM budget_period
        LEFT JOIN budget_lease AS lease ON lease.period_id = budget_period.id AND lease.worker_id = closed_worker
        LEFT JOIN charges ON charges.period_id = budget_period.id
        WHERE (lease.period_id IS NOT NULL OR charges.period_id IS NOT NULL)
            AND (lease.closed IS NOT TRUE OR lease.drawn <> coalesce(charged, 0))),
    closed AS (
        INSERT INTO budget_lease (period_id, worker_id, version, drawn, closed, kept)
        SELECT period_id, closed_worker, version + {VERSION_MARGIN}, final, true, final > charged FROM ends
        ON CONFLICT (period_id, worker_id) DO UPDATE
        SET version = excluded.version, drawn = excluded.drawn, spent = 0, closed = true, kept = excluded.kept),
    given_back AS (
        UPDATE budget_period SET granted = granted + final - drawn FROM ends WHERE id = period_id)
    SELECT jsonb_build_object('leases', count(*), 'kept', coalesce(jsonb_agg(
        jsonb_build_object('period', period_id, 'amount', (final - charged)::text,
            'unit', (SELECT unit FROM budget WHERE id = period_id >> 32))) FILTER (WHERE final > charged),
        '[]')) INTO result FROM ends;
    RETURN result;
END
$function$"""

# The ring has the grants of each half second. A permit is used within half a second, so the uses of any 60 s are grants
# of 60.5 s, which are parts of at most 122 half seconds.
DRAW_PERMITS = f"""
CREATE FUNCTION draw_permits_v1(wanted jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    pot record; ring record; answers jsonb := '[]'; workers bigint;
    this_slot bigint; room bigint; used_sum bigint; given bigint; free_slot bigint; lacking bigint; position integer;
    counts bigint[];
BEGIN
    -- Their tables are unlogged, so a crash empties them anyway.
    PERFORM set_config('synchronous_commit', 'off', true);
    SELECT count(*) INTO workers FROM worker
    WHERE closed_how IS NULL AND last_seen_at > now() - interval '30 s';
    FOR pot IN
        SELECT * FROM jsonb_to_recordset(wanted) AS pots (subject text, kind text, most bigint, need bigint,
            firm bigint, want bigint, debt bigint, returned jsonb)
        ORDER BY subject, kind
    LOOP
        SELECT slots, head INTO ring FROM rate_pot WHERE subject_id = pot.subject AND kind = pot.kind FOR UPDATE;
        IF NOT FOUND THEN
            INSERT INTO rate_pot (subject_id, kind, slots, head)
            VALUES (pot.subject, pot.kind, array_fill(0::bigint, ARRAY[{RATE_SLOTS}]), 0) ON CONFLICT DO NOTHING;
            SELECT slots, head INTO ring FROM rate_pot WHERE subject_id = pot.subject AND kind = pot.kind FOR UPDATE;
        END IF;
        counts := ring.slots;
        this_slot := floor(extract(epoch FROM clock_timestamp()) * 2);
        IF this_slot < ring.head AND this_slot > ring.head - {RATE_SLOTS} THEN
            this_slot := ring.head;  -- The clock was set back a little.
        ELSIF this_slot <= ring.head - {RATE_SLOTS} OR this_slot >= ring.head + {RATE_SLOTS} THEN
            counts := array_fill(0::bigint, ARRAY[{RATE_SLOTS}]);
        ELSE
            FOR age IN 0 .. this_slot - ring.head - 1 LOOP
                counts[(this_slot - age) % {RATE_SLOTS} + 1] := 0;
            END LOOP;
        END IF;
        FOR position, given IN
            SELECT slot.key::bigint % {RATE_SLOTS} + 1, slot.value::bigint
            FROM jsonb_each_text(coalesce(pot.returned, '{{}}')) AS slot
            WHERE slot.key::bigint > this_slot - {RATE_SLOTS} AND slot.key::bigint <= this_slot
        LOOP
            counts[position] := greatest(counts[position] - given, 0);
        END LOOP;
        position := this_slot % {RATE_SLOTS} + 1;
        counts[position] := counts[position] + coalesce(pot.debt, 0);
        SELECT sum(count) INTO used_sum FROM unnest(counts) AS ring_counts (count);
        room := pot.most - used_sum;
        given := 0; free_slot := NULL;
        IF pot.need <= room THEN
            given := least(pot.want, greatest(pot.need, least(pot.firm, room), room / 4));
            counts[position] := counts[position] + given;
        ELSE
            lacking := pot.need - room;
            FOR age IN REVERSE {RATE_SLOTS - 1} .. 0 LOOP
                lacking := lacking - counts[(this_slot - age) % {RATE_SLOTS} + 1];
                IF lacking <= 0 THEN
                    free_slot := this_slot - age + {RATE_SLOTS};
                    EXIT;
                END IF;
            END LOOP;
        END IF;
        UPDATE rate_pot SET slots = counts, head = this_slot WHERE subject_id = pot.subject AND kind = pot.kind;
        answers := answers || jsonb_build_object('subject', pot.subject, 'kind', pot.kind, 'slot', this_slot,
            'given', given, 'room', room - given, 'refused', pot.need > room,
            'wait_s', greatest(free_slot / 2.0 - extract(epoch FROM clock_timestamp()), 0)::float8);
    END LOOP;
    RETURN jsonb_build_object('workers', workers, 'pots', answers);
END
$function$"""

DRAW_SLOTS = f"""
CREATE FUNCTION draw_slots_v1(drawer text, wanted jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    pot record; lease record; answers jsonb := '[]'; workers bigint; others bigint; room bigint; target bigint;
    is_newer boolean; is_refused boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM pg_advisory_xact_lock_shared({WORKER_LOCK}, hashtext(drawer));
    SELECT count(*) INTO workers FROM worker
    WHERE closed_how IS NULL AND last_seen_at > now() - interval '30 s';
    FOR pot IN
        SELECT * FROM jsonb_to_recordset(wanted) AS pots (subject text, most bigint, version bigint, used bigint,
            need bigint, firm bigint, want bigint)
        ORDER BY hashtext(subject)
    LOOP
        PERFORM pg_advisory_xact_lock({SLOTS_LOCK}, hashtext(pot.subject));
        -- A worker that was not seen for so long has ended, or cannot serve more than its requests in flight.
        SELECT coalesce(sum(held), 0) INTO others FROM slot_lease
        WHERE subject_id = pot.subject AND worker_id <> drawer AND seen_at > clock_timestamp() - interval '30 s';
        SELECT version, held INTO lease FROM slot_lease WHERE subject_id = pot.subject AND worker_id = drawer;
        is_newer := pot.version > coalesce(lease.version, 0);
        target := coalesce(lease.held, 0); is_refused := false;
        IF is_newer THEN
            target := pot.used;
            room := pot.most - others - target;
            is_refused := pot.need > target AND pot.need - target > room;
            IF pot.want > target AND room > 0 THEN
                target := least(pot.want, greatest(least(pot.firm, target + room), target + room / 4));
            END IF;
            INSERT INTO slot_lease (subject_id, worker_id, version, held, seen_at)
            VALUES (pot.subject, drawer, pot.version, target, clock_timestamp())
            ON CONFLICT (subject_id, worker_id) DO UPDATE
            SET version = excluded.version, held = excluded.held, seen_at = excluded.seen_at;
        END IF;
        answers := answers || jsonb_build_object('subject', pot.subject,
            'version', greatest(pot.version, lease.version), 'applied', is_newer,
            'refused', is_refused, 'held', target, 'room', pot.most - others - target);
    END LOOP;
    RETURN jsonb_build_object('workers', workers, 'pots', answers);
END
$function$"""
