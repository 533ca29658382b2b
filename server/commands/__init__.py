"""The commands of the program `playhead`, and how its processes start; requests are answered elsewhere."""
