"""Downloads from the hub, and what it says when it refuses: one sentence with the remedy for each reason.

Errors are told apart by the names of their classes, which stay the same under requests and under httpx.
Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from qrecipe.errors import BaseModelError, Place, Problem, nearest
from qrecipe.files import WriteError, says_full
from qrecipe.recipe.base import Base

HUB_FILES = ["*.json", "*.txt", "*.safetensors", "speech_tokenizer/*.json", "speech_tokenizer/*.safetensors", "LICENSE*"]


@dataclass(frozen=True)
class Refusal:
    """A reason for which there is no download."""

    message: str
    """A sentence about `{model}` at `{revision}`."""
    help: str


TOKEN = "set HF_TOKEN to a token that may read it"
OFFLINE = Refusal("{model} is not in the hub cache, and HF_HUB_OFFLINE forbids a download", "unset HF_HUB_OFFLINE; {by_hand}")
UNKNOWN = Refusal("cannot get {model} from the hub: {reason}", "{by_hand}")
BY_CLASS = {
    "GatedRepoError": Refusal(
        "{model} is gated: the hub gives it to accounts that its owner has let in",
        f"ask for access (or accept the licence) on its page of the hub, and {TOKEN}",
    ),
    "DisabledRepoError": Refusal("the hub has disabled {model}", "take another base"),
    "RevisionNotFoundError": Refusal(
        "{model} has no revision `{revision}`", "`revision` is a commit, a tag or a branch of the repository: see its page of the hub"
    ),
    "RepositoryNotFoundError": Refusal(
        "the hub has no {model}, or it is private", f"{{suggestion}}check how it is spelled; for a private one {TOKEN}"
    ),
    "HFValidationError": Refusal("`{model}` is not a hub id", "a hub id is OWNER/NAME"),
    "OfflineModeIsEnabled": OFFLINE,
    "SSLError": Refusal(
        "the hub's certificate is not trusted here: {reason}",
        "behind a proxy that opens connections, set REQUESTS_CA_BUNDLE and SSL_CERT_FILE to the file with its certificate",
    ),
    "ProxyError": Refusal(
        "the proxy does not let the connection to the hub through: {reason}",
        "check HTTPS_PROXY and HTTP_PROXY, or add the hub to NO_PROXY; {by_hand}",
    ),
    "Timeout": Refusal(
        "the hub did not answer in time; what was downloaded is kept",
        "run the same command again; HF_HUB_DOWNLOAD_TIMEOUT and HF_HUB_ETAG_TIMEOUT say for how many seconds it waits",
    ),
    "ConnectionError": Refusal("there is no connection to the hub: {reason}", "{by_hand}"),
}
"""By a class of the error or of its causes; the first that fits."""
SAME = {"TimeoutException": "Timeout", "ReadTimeoutError": "Timeout", "ConnectError": "ConnectionError", "NetworkError": "ConnectionError"}
BY_STATUS = {
    401: Refusal("the hub does not accept the access token of this machine", "renew HF_TOKEN, or unset it: a public base needs none"),
    403: Refusal("the access token of this machine may not read {model}", TOKEN),
    404: BY_CLASS["RepositoryNotFoundError"],
    429: Refusal("the hub takes no more requests from here for now", "wait some minutes and run the same command again"),
}
"""By the answer's HTTP status, where no class says more."""
BROKEN = Refusal("the hub itself has a fault (HTTP {status})", "run the same command again later; what was downloaded is kept")


def how_to_get(base: Base) -> str:
    """The commands and settings that bring a base here by hand."""
    revision = f" --revision {base.revision}" if base.revision else ""
    return f"where there is a network: `hf download {base.model}{revision}`; or give its folder, as in `model: ./folder`"


def offline() -> bool:
    """Whether the environment forbids downloads."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def download(base: Base, place: Place) -> Path:
    """The snapshot folder of a base after its download. Raises `BaseModelError`, and `WriteError` if it cannot be stored."""
    from huggingface_hub import constants, snapshot_download

    if offline():
        raise _problem(OFFLINE, base, place)
    try:
        return Path(snapshot_download(base.model, revision=base.revision, allow_patterns=HUB_FILES))
    except Exception as e:  # the hub client raises many kinds, and wraps others
        causes = list(causes_of(e))
        for error in causes:
            if says_full(error) or (isinstance(error, OSError) and error.filename is not None):
                number, name = getattr(error, "errno", None), getattr(error, "filename", None)
                raise WriteError(number or 28, getattr(error, "strerror", None) or str(error), name or constants.HF_HUB_CACHE) from None
        refusal, status = _refusal(causes)
        raise _problem(refusal, base, place, _reason(causes), status) from None


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, each once, the first cause last."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _refusal(causes: list[BaseException]) -> tuple[Refusal, int | None]:
    for error in causes:
        names = [SAME.get(c.__name__, c.__name__) for c in type(error).__mro__]
        for name, refusal in BY_CLASS.items():
            if name in names:
                return refusal, None
    statuses = (getattr(getattr(e, "response", None), "status_code", None) for e in causes)
    status = next((s for s in statuses if isinstance(s, int)), None)
    if status is not None and status >= 500:
        return BROKEN, status
    return BY_STATUS.get(status or 0, UNKNOWN), status


def _reason(causes: list[BaseException]) -> str:
    """The first sentence of the first cause that has words."""
    for error in reversed(causes):
        sentence = str(error).strip().split("\n")[0].split(". ")[0].strip()
        if sentence:
            return sentence
    return type(causes[0]).__name__


def _problem(refusal: Refusal, base: Base, place: Place, reason: str = "", status: int | None = None) -> BaseModelError:
    close = nearest(base.model, _published())
    facts = {
        "model": base.model,
        "revision": base.revision,
        "reason": reason,
        "status": status,
        "by_hand": how_to_get(base),
        "suggestion": f"did you mean `{close}`? Else " if close is not None and close != base.model else "",
    }
    return BaseModelError(Problem("QR050", refusal.message.format(**facts), place, refusal.help.format(**facts)))


def _published() -> list[str]:
    """Hub ids of the bases whose catalogues are shipped."""
    import json

    files = (resources.files("qrecipe.plan") / "catalogues").iterdir()
    models = [json.loads(f.read_text(encoding="utf-8"))["model"] for f in files if f.name.endswith(".json")]
    return [m for m in models if "/" in m]
