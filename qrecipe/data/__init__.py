"""Manifests -> checked recordings -> cached codes and x-vectors -> batches. The only reader of audio."""
