"""The client of the Hub, and what its errors mean for the files of a family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
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
        local_files_only: Whether nothing but that cache is asked.
    """

    revision: str | None = None
    token: str | bool | None = field(default=None, repr=False)
    cache_dir: str | None = None
    local_files_only: bool = False

    def api(self) -> HfApi:
        """The client."""
        return HfApi(token=self.token, library_name="hf_meta_adapters", library_version=__version__)


_UNREACHABLE = (
    "The files must be reachable or in the cache",
    "Check the connection and `HF_HUB_OFFLINE`, or load it once with a connection",
)
_MEANINGS: tuple[tuple[type[Exception] | int, str, str], ...] = (
    # the first that fits; a class comes before those that it inherits from
    (LocalEntryNotFoundError, *_UNREACHABLE),
    (OfflineModeIsEnabled, *_UNREACHABLE),
    (GatedRepoError, "A gated repository can be read by those whom its owner has let in",
     "Ask for access on its page, then `hf auth login` or `token=`"),
    (RepositoryNotFoundError, "The repository must exist and be readable with the token",
     "Check the name, and for a private one `hf auth login` or `token=`"),
    (RevisionNotFoundError, "`revision` must be a branch, a tag or a commit of the repository", "Check its name"),
    (EntryNotFoundError, "A family must have a file `language_adapters.json`",
     "Name a repository that `push_to_hub` wrote; one adapter by itself goes into a model with `load_language`"),
    (LocalTokenNotFoundError, "Writing to the Hub needs a token", "Log in with `hf auth login`, or pass `token=`"),
    (HFValidationError, "A repository must be named as `owner/name`", "Check the name"),
    (401, "Writing to the Hub needs a valid token", "Log in with `hf auth login`, or pass `token=`"),
    (403, "A repository can be written by its owner", "Write `create_pr=True` to offer the change to its owner"),
    (409, "Two changes of one repository cannot be made at once", "Push again"),
    (412, "A push must follow the commit that it was made for", "Somebody has pushed in the meantime. Push again"),
)  # fmt: skip


@contextmanager
def speaking_of(repo_id: str, token: str | bool | None = None) -> Iterator[None]:
    """Make what the client raises one paragraph: the rule, what was found, what to do.

    The client's own errors depend on the HTTP library that it uses, which differs between its
    versions.
    """
    try:
        yield
    except MetaAdapterError:
        raise
    except Exception as error:
        rule, remedy = _meaning(error)
        found = " ".join(str(error).split()) or type(error).__name__
        if isinstance(token, str) and token:
            found = found.replace(token, "…")
        raise HubError(f"{rule}. Found, for {repo_id!r}: {found[:500]} {remedy}.") from error


def _meaning(error: BaseException) -> tuple[str, str]:
    status = getattr(getattr(error, "response", None), "status_code", None)
    for what, rule, remedy in _MEANINGS:
        if what == status or (isinstance(what, type) and isinstance(error, what)):
            return rule, remedy
    if error.__cause__ is not None and status is None:  # an upload in a thread of its own
        return _meaning(error.__cause__)
    return "The Hub must answer", "The repository is as it was before, or complete. Try again"
