"""A Valkey server of our own as a child process, for installations without a store."""
