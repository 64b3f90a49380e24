"""Settings of a search by the names that a backend's own users know, such as those of Ray Tune's `tune.run`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from tunesmith.backends import backend_class
from tunesmith.errors import SettingError

P = ParamSpec("P")
T = TypeVar("T")


def by_known_names(search: Callable[P, T]) -> Callable[P, T]:
    """Let a search take settings by the names of its backend, which the backend's `aliases(settings)` turns into ours."""
    signature = inspect.signature(search)

    @wraps(search)
    def renaming(*args: P.args, **kwargs: P.kwargs) -> T:
        backend = signature.bind_partial(*args, **kwargs).arguments.get("backend") or "tunesmith"
        aliases = getattr(backend_class(getattr(backend, "value", backend)), "aliases", None)
        given: dict[str, Any] = dict(kwargs)
        for name, (ours, value) in ({} if aliases is None else aliases(given)).items():
            if ours != name and given.get(ours) is not None:
                raise SettingError(
                    f"{name} means {ours}, got {name}={given[name]!r} and {ours}={given[ours]!r}; pass one"
                )
            del given[name]
            given[ours] = value
        return search(*args, **given)

    return renaming
