"""The database: SQL only, PostgreSQL only, rows inserted as given. Decisions are made in the services above."""
