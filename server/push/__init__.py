"""Pushes of changed records to each connected device of a learner; frames are written in socket/, not here."""
