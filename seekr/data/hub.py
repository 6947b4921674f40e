"""The hub where there is no network: found out once, not file after file."""

from __future__ import annotations

import os
import sys
from functools import cache

from seekr.distributed.processes import is_main

SECONDS = 10.0


@cache
def look_for_hub() -> None:
    """Asks once a process whether the hub can be reached; if not, its library's own offline mode answers from the
    cache at once, where each file would be asked for six times in half a minute.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # the client's own, of names, proxies, certificates
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported from now on, and processes that begin
        constants.HF_HUB_OFFLINE = True
        why = " ".join(str(error).split())[:120]
        if is_main():
            said = f"cannot be reached ({why}); what is in the cache is used (HF_HUB_OFFLINE=1)"
            print(f"seekr: {constants.ENDPOINT} {said}", file=sys.stderr)
