"""The program `playhead`: what its commands do, and how a process of it starts. Requests are not answered here."""
