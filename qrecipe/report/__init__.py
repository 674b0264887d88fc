"""What a person looks at: problems, plan tables, progress, verdicts. Only prints; decides nothing."""
