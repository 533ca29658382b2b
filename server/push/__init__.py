"""Pushes of changed records to every connected device of a learner, whichever process committed the change."""
