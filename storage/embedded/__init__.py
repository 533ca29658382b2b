"""The embedded store: a Valkey server as a child process, for installations without a store of their own."""
