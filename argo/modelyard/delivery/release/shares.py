"""Who gets which share of the users, and what a release may change about it.

What serves is never removed for want of a record, nor on the word of one that contradicts the
route. And no user is taken from a version that answers and given to one that does not.
"""

from collections.abc import Collection, Mapping

from modelyard.delivery.ports import Routes
from modelyard.delivery.release.state import State
from modelyard.documents import UserError

Shares = Mapping[int, int]
"""version → weight, above 0; of those that get users"""


class Unexplained(UserError):
    """What serves is not what the record says, or there is none that could say."""


class Kept(UserError):
    """There is nobody to go back to: users stay where they are."""


def stable_version(last: State | None, live: Shares) -> int | None:
    """The version that serves and that a candidate is compared with; None where nobody serves.

    By the record, if the route agrees with it; without a record by the route, if it gives all
    users to one version.

    Args:
        last: where the newest release is.
        live: of the versions that have servers.

    Raises:
        Unexplained: the two contradict each other, or there is no record and several serve.
    """
    if last is None:
        if len(live) > 1:
            raise Unexplained(_refusal(live, "there is no record of a release"))
        return next(iter(live), None)
    known = {last.stable, last.candidate}
    # While a release is under way stable may have no users: all of them get the candidate.
    due = last.phase != "done" or last.stable in live
    if live and not (due and live.keys() <= known):
        said = "none is" if last.stable is None else f"version {last.stable} is"
        why = f"by the newest release on record ({last.release}) {said} stable"
        raise Unexplained(_refusal(live, why))
    return last.stable


def _refusal(live: Shares, why: str) -> str:
    version = str(next(iter(live))) if len(live) == 1 else "N"
    return (
        f"{told(live)}, but {why}. Nothing was changed. If that is right, say which version is "
        f"stable: `modelyard release adopt --env ENV --version {version}`"
    )


def told(live: Shares) -> str:
    """`users get version 1 (75 %) and version 2 (25 %)`, for the begin of a sentence."""
    if not live:
        return "nobody is served"
    if len(live) == 1:
        return f"all users get version {next(iter(live))}"
    whole = sum(live.values())
    parts = [f"version {v} ({100 * w / whole:.3g} %)" for v, w in sorted(live.items())]
    return f"users get {', '.join(parts[:-1])} and {parts[-1]}"


def harmless(wanted: Routes, live: Shares, silent: Collection[int | None]) -> Routes | None:
    """What of `wanted` may be made live; None: leave the route as it is.

    A candidate whose servers are all silent gets nobody. And where stable's are, or where there
    is no stable version, users whom somebody else answers stay with him.

    Args:
        live: of all versions, by the route.
        silent: versions none of whose servers answers.
    """
    if wanted.stable is not None and wanted.candidate in silent:
        wanted = wanted.model_copy(update={"weight": 0})
    mainly = wanted.stable if wanted.weight < 100 else wanted.candidate
    if mainly is not None and mainly not in silent:
        return wanted
    answering = live.keys() - set(silent)
    if wanted.candidate in answering:
        kept = max(wanted.weight, live[wanted.candidate])
        return wanted.model_copy(update={"weight": min(100, kept)})
    return None if answering else wanted
