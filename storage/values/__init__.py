"""How values are encoded in the store, and what follows where one cannot be decoded; nothing here does I/O."""
