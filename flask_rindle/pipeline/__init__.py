"""What happens after an upload: each step is claimed from the outbox and can run twice."""
