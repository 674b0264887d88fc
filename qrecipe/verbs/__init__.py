"""The work of the command line's verbs, but for `run`. A module has the name of its verb."""
