"""The name under which server, storage, protocol and client are imported and installed; it holds no code of its own."""
