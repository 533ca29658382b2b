"""The cases, one file for each question; `run` answers it with a Section."""
