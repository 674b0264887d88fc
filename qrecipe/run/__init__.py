"""Carries out a plan: stages in order, events, gates, the bundle. Decides nothing but gates."""
