"""The documents that are read back: the lock, manifests of bundles and packs, verdicts, ballots, results.

Each is a model, and its JSON Schema is generated from it.
"""

from typing import Annotated

from pydantic import Field

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
