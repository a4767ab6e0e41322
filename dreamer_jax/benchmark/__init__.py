"""How fast an update and a run are: measured times, counted FLOPs, memory."""
