"""Pushing a bundle to the hub: one commit and one tag, verified afterwards; the same bytes again change nothing.

`huggingface_hub` does the transfers: what was sent before an interruption is not sent again. Never imports torch.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qrecipe.bundle.verify import HUB_FILE, MANIFEST, read_manifest, verify
from qrecipe.errors import BundleError, Place, Problem
from qrecipe.files import says_full
from qrecipe.hashes import sha256
from qrecipe.inputs.hub import causes_of

T = TypeVar("T")
TOKEN = "make an access token that may write on huggingface.co/settings/tokens, and set HF_TOKEN or run `hf auth login`"


@dataclass(frozen=True)
class Pushed:
    """How a push ended."""

    repository: str
    tag: str
    url: str
    files: int
    """Files of the bundle."""
    sent: tuple[str, ...]
    """Files that were not there, or were others; empty if nothing was to be done."""
    removed: tuple[str, ...]
    """Files of an earlier version that do not belong to this one."""


REFUSALS: dict[str, tuple[str, str]] = {
    "LocalTokenNotFoundError": ("this machine has no access token of the hub", TOKEN),
    "GatedRepoError": ("{repo} is gated, and this account has no access", "ask its owner for access, or push to a repository of your own"),
    "DisabledRepoError": ("the hub has disabled {repo}", "push to another repository"),
    "RepositoryNotFoundError": ("the hub has no {repo} that this account may see", "check how it is spelled; " + TOKEN),
    "HFValidationError": ("`{repo}` is no name of a repository", "OWNER/NAME of letters, digits, `-`, `_` and `.`"),
    "OfflineModeIsEnabled": ("HF_HUB_OFFLINE forbids a push", "unset HF_HUB_OFFLINE"),
    "Timeout": ("the hub did not answer in time", "run the same command again; what was sent is not sent again"),
    "ConnectionError": (
        "there is no connection to the hub",
        "run the same command again where there is one; what was sent is not sent again",
    ),
}
"""By a class of the hub client's error: what is wrong, and what helps."""
STATUSES: dict[int, tuple[str, str]] = {
    401: ("the hub does not accept the access token of this machine", TOKEN),
    403: ("the access token of this machine may not write to {repo}", TOKEN),
    404: REFUSALS["RepositoryNotFoundError"],
    409: ("{repo} changed while it was pushed to", "run the same command again"),
    412: ("{repo} changed while it was pushed to", "run the same command again"),
    413: ("the hub takes no files of this size in {repo}", "see the storage of the account on its page of the hub"),
    429: ("the hub takes no more requests from here for now", "wait some minutes and run the same command again"),
}
"""By the status of the hub's answer, where no class says more."""


def push(bundle: Path, repository: str, public: bool = False) -> Pushed:
    """Pushes a bundle that verifies to OWNER/NAME, tags it `vVERSION`, and compares what is there then.

    The repository is made if it is missing, private unless `public`. Raises `BundleError`.
    """
    manifest = read_manifest(bundle)
    verify(bundle).raise_any(BundleError)
    tag, place = f"v{manifest.version}", Place(repository)
    files = {name: bundle / name for name in [*sorted(manifest.files), MANIFEST]}

    def ask(call: Callable[[], T]) -> T:
        try:
            return call()
        except Exception as e:  # the hub client raises many kinds, and wraps others
            if says_full(e):
                raise
            raise _refused(e, repository, place) from None

    api = _client(place)
    if repository.count("/") != 1:
        raise _problem(REFUSALS["HFValidationError"], repository, place)

    # nothing is sent before it is known that the repository may take it
    url = ask(lambda: _repository(api, repository, public, place))
    tags = ask(lambda: [t.name for t in api.list_repo_refs(repository).tags])
    if tag in tags:
        return _compared(ask(lambda: _different(api, repository, tag, files)), (repository, tag, url), files, place)
    changed, extra = ask(lambda: _different(api, repository, "main", files))

    # one commit, so that nobody ever sees half a bundle; the tag comes last
    if changed or extra:
        ask(lambda: _commit(api, repository, {n: files[n] for n in changed}, extra, f"{manifest.name} {manifest.version}"))
    ask(lambda: api.create_tag(repository, tag=tag, tag_message=f"{manifest.name} {manifest.version}"))
    wrong, more = ask(lambda: _different(api, repository, tag, files))
    if wrong or more:
        message = f"after the push {repository} holds other bytes: {', '.join([*wrong, *more][:5])}"
        raise BundleError(Problem("QR065", message, place, "somebody else may push there; raise the version and push again"))
    return Pushed(repository, tag, url, len(files), tuple(changed), tuple(extra))


def _client(place: Place) -> Any:
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if constants.HF_HUB_OFFLINE:
        raise _problem(REFUSALS["OfflineModeIsEnabled"], "", place)
    token = get_token()
    if token is None:
        raise _problem(REFUSALS["LocalTokenNotFoundError"], "", place)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(token=token, library_name="qrecipe")


def _repository(api: Any, repository: str, public: bool, place: Place) -> str:
    """The page of the repository, which is made if it is missing. Raises `BundleError` for one that everybody sees, unasked."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError:
        info = None
    if info is None:
        return str(api.create_repo(repository, private=not public))
    if not info.private and not public:
        help_ = "`--public` pushes to it; or make it private in its settings"
        raise BundleError(Problem("QR065", f"everybody can see {repository}", place, help_))
    return f"{api.endpoint}/{repository}"


def _different(api: Any, repository: str, revision: str, files: dict[str, Path]) -> tuple[list[str], list[str]]:
    """Files that a revision lacks or holds with other bytes, and files that do not belong to the bundle."""
    from huggingface_hub.hf_api import RepoFile

    there = {f.path: f for f in api.list_repo_tree(repository, recursive=True, revision=revision) if isinstance(f, RepoFile)}
    changed = [name for name, file in files.items() if name not in there or not _same(file, there[name])]
    return changed, sorted(there.keys() - files.keys() - {HUB_FILE})


def _same(file: Path, there: Any) -> bool:
    """Whether the hub holds a file's bytes: by SHA-256 for large ones, by git's own hash for others."""
    if there.size != file.stat().st_size:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == sha256(file))
    content = file.read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())


def _commit(api: Any, repository: str, files: dict[str, Path], extra: list[str], message: str) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations = [CommitOperationAdd(name, str(file)) for name, file in files.items()]
    api.create_commit(repository, [*operations, *(CommitOperationDelete(n) for n in extra)], commit_message=message)


def _compared(different: tuple[list[str], list[str]], where: tuple[str, str, str], files: dict[str, Path], place: Place) -> Pushed:
    """A version that is there already. Raises `BundleError` if it holds other bytes."""
    repository, tag, url = where
    names = [*different[0], *different[1]]
    if names:
        message = f"{repository} has {tag} already, with other bytes: {', '.join(names[:5])}"
        raise BundleError(Problem("QR061", message, place, "raise `version` in the recipe and build the bundle again"))
    return Pushed(repository, tag, url, len(files), (), ())


def _refused(error: Exception, repository: str, place: Place) -> BundleError:
    """An error of the hub client as one sentence."""
    if isinstance(error, BundleError):
        return error
    for cause in causes_of(error):
        names = [c.__name__ for c in type(cause).__mro__]
        status = getattr(getattr(cause, "response", None), "status_code", None) or 0
        known = next((REFUSALS[n] for n in REFUSALS if n in names), None) or STATUSES.get(status)
        if known is None and status >= 500:
            known = (f"the hub itself has a fault (HTTP {status})", "run the same command again later")
        if known is not None:
            return _problem(known, repository, place)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].replace("{", "(").replace("}", ")")
    return _problem((f"the hub refuses the push to {{repo}}: {reason}", "see its page of the hub"), repository, place)


def _problem(refusal: tuple[str, str], repository: str, place: Place) -> BundleError:
    return BundleError(Problem("QR065", refusal[0].format(repo=repository), place, refusal[1]))
