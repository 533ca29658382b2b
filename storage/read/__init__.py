"""Reads of what the store holds: records, totals, the catalogue, scans; nothing here changes a record."""
