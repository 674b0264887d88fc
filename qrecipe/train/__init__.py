"""One stage: objectives, the loop, the optimiser, guards. Decides nothing about gates."""
