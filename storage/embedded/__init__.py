"""A Valkey server as a child process, for installations without a store; no data is read or written here."""
