"""What the store holds, read back: records, totals, the catalogue, scans. Nothing here writes records."""
