"""The hub where there is no network: found out once, not file after file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from seekr.distributed.processes import say_once
from seekr.errors import InputError

SECONDS = 10.0


@contextmanager
def hub_or_cache(*, asked: bool = True) -> Iterator[None]:
    """For what is asked of the hub. Where that cannot be reached, the cache answers: it is said once it has, and why it
    had to in the InputError where it has not. `asked`: False = nothing is.
    """
    why = _unreachable() if asked else None
    try:
        yield
    except InputError as error:
        raise (InputError(f"{error} ({why})") if why else error) from None
    if why:
        _say_cache_is_used(why)


@cache
def _unreachable() -> str | None:
    """Why the hub cannot be reached, asked once a process. Then its library's own offline mode answers from the cache
    at once, where each file would be asked for six times in half a minute.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return None
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # the client's own, of names, proxies, certificates
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported from now on, and processes that begin
        constants.HF_HUB_OFFLINE = True
        return f"{constants.ENDPOINT} cannot be reached: {' '.join(str(error).split())[:120]}"
    return None


@cache
def _say_cache_is_used(why: str) -> None:
    say_once(f"{why}; what is in the cache is used (HF_HUB_OFFLINE=1)")
