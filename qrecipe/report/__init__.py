"""Output for people: problems, plan tables, progress, verdicts. Only prints; decides nothing."""
