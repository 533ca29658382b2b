"""What is kept and how: batches of reports joined into a Redis or Valkey store, atomically and durably."""
