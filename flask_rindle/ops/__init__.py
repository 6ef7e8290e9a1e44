"""Day-2 operations: what operators and schedules do to rows that exist."""
