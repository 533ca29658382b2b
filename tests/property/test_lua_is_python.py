"""The store's Lua and protocol/record.py are the same rule: same histories, same bytes."""
