"""Who is asking and what they may do: tokens, key sets, origins, rights, the audit log."""
