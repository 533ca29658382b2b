"""Changes of records on their way to every connection of a learner, whichever process committed them."""
