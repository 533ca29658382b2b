"""What is measured: one file a question, each with `run`, which answers it in a Section."""
