"""The client of the Hub, and what its errors mean for the files of a family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_meta_adapters._version import __version__
from hf_meta_adapters.errors import HubError, MetaAdapterError


@dataclass(frozen=True)
class Access:
    """How a repository is reached.

    Args:
        revision: A branch, a tag or a commit; `None` for the main branch.
        token: The token; `None` for that of `hf auth login`, `False` for none.
        cache_dir: Where downloads are kept; `None` for the cache of the Hub.
        local_files_only: Whether to use nothing but that cache.
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | Path | None = None
    local_files_only: bool = False

    def api(self) -> HfApi:
        """The client."""
        return HfApi(token=self.token, library_name="hf_meta_adapters", library_version=__version__)


def _no_answer() -> tuple[type[Exception], ...]:
    """What the client raises when no answer comes: its own error, and those of its HTTP library."""
    # huggingface_hub passes these errors on as they are, and it has changed the library twice:
    # requests (0.x), httpx (1.x), httpx2 (2.x). Its own base class tells which one is in use.
    library = import_module(HfHubHTTPError.__mro__[1].__module__.partition(".")[0])

    if library.__name__ == "requests":
        return OfflineModeIsEnabled, library.ConnectionError, library.Timeout

    return OfflineModeIsEnabled, library.TransportError


NO_ANSWER = _no_answer()
"""No connection, a timeout, or offline mode: the Hub was not asked, or has not answered."""

_UNREACHABLE = (
    "The files must be reachable or in the cache",
    "Check the connection and `HF_HUB_OFFLINE`, or load the model once with a connection",
)
_UNPUBLISHED = (
    "Publishing needs a connection to the Hub",
    "Check the connection and `HF_HUB_OFFLINE`, and push again",
)
_MEANINGS: tuple[tuple[type[Exception], str, str], ...] = (
    # The first match counts, so a class stands before the classes it inherits from.
    (LocalEntryNotFoundError, *_UNREACHABLE),
    (OfflineModeIsEnabled, *_UNREACHABLE),
    (
        GatedRepoError,
        "A gated repository can be read by those whom its owner has let in",
        "Ask for access on its page, then use `hf auth login` or `token=`",
    ),
    (
        RepositoryNotFoundError,
        "The repository must exist and be readable with the token",
        "Check the name and, for a private one, `hf auth login` or `token=`",
    ),
    (
        RevisionNotFoundError,
        "`revision` must be a branch, a tag or a commit of the repository",
        "Check its name",
    ),
    (
        EntryNotFoundError,
        "A family must have a file `language_adapters.json`",
        "Name a repository that `push_to_hub` wrote; load a single adapter with `load_language`",
    ),
    (
        LocalTokenNotFoundError,
        "Writing to the Hub needs a token",
        "Log in with `hf auth login`, or pass `token=`",
    ),
    (HFValidationError, "A repository must be named as `owner/name`", "Check the name"),
)
_STATUS_MEANINGS = {
    401: (
        "Writing to the Hub needs a valid token",
        "Log in with `hf auth login`, or pass `token=`",
    ),
    403: (
        "A repository can be written by its owner",
        "Pass `create_pr=True` to offer the change to its owner",
    ),
    409: ("Two changes of one repository cannot be made at once", "Push again"),
    412: (
        "A push must follow the commit that it was made for",
        "Somebody has pushed in the meantime. Push again",
    ),
}
_UNKNOWN = (
    "The Hub must answer",
    "The repository is either unchanged or complete. Try again",
)


@contextmanager
def speaking_of(
    repo_id: str, token: str | bool | None = None, *, writing: bool = False
) -> Iterator[None]:
    """Turn whatever the client raises into a `HubError`: the rule, what was found, what to do.

    Args:
        repo_id: The repository, for the message.
        token: The token, which the message must not show.
        writing: Whether something is published, for which no cache can do.

    Raises:
        HubError: In place of an error of the client.
    """
    try:
        yield
    except MetaAdapterError:
        raise
    except Exception as error:
        # The client wraps neither the errors of its HTTP library nor those of its storage library,
        # and they have no base class in common.
        rule, remedy = _meaning(error)
        if writing and (rule, remedy) == _UNREACHABLE:
            rule, remedy = _UNPUBLISHED
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(token, str) and token:
            message = message.replace(token, "…")

        raise HubError(f"{rule}. Found, for {repo_id!r}: {message[:500]} {remedy}.") from error


def meaning_of(error: BaseException) -> tuple[str, str] | None:
    """The rule that an error of the Hub breaks, and what to do; `None` for other errors.

    Args:
        error: The error, or one that a library raised because of it.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NO_ANSWER):
            return _UNREACHABLE

        # of a single file that is missing, whoever asked for it knows more
        is_missing = isinstance(cause, EntryNotFoundError)
        if isinstance(cause, HfHubHTTPError | HFValidationError) and not is_missing:
            return _meaning(cause)
        if isinstance(cause, LocalEntryNotFoundError):
            return _UNREACHABLE

        cause = cause.__cause__

    return None


def _meaning(error: BaseException) -> tuple[str, str]:
    """The rule that an error breaks, and what to do about it."""
    for kind, rule, remedy in _MEANINGS:
        if isinstance(error, kind):
            return rule, remedy

    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return _STATUS_MEANINGS.get(error.response.status_code, _UNKNOWN)

    # An upload runs in a thread, whose error the client wraps in another one.
    if error.__cause__ is not None:
        return _meaning(error.__cause__)

    return _UNKNOWN
