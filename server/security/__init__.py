"""Authentication and authorization: tokens, key sets, origins, scopes, audit log; rates and sizes are in limits/."""
