"""Batches of reports, joined atomically and durably into a Redis or Valkey store; nothing here knows a request."""
