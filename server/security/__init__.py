"""Authentication and authorization: tokens, key sets, origins, scopes, and the audit log."""
