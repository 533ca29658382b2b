"""How values are encoded in the store, and what happens where one cannot be decoded."""
