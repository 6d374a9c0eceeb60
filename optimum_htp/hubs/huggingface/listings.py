"""Lists of the Hugging Face Hub: the models of a collection, and the models of an author."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import HubServerError, ModelListNotFoundError, OfflineError, OptimumHTPError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.deadline import Deadline, waiting_out
from optimum_htp.hubs.error_translation import translated_errors
from optimum_htp.hubs.unreachable import causes

if TYPE_CHECKING:
    from huggingface_hub import CollectionItem, HfApi

__all__ = ["models_of_author", "models_of_collection"]

_NOT_FOUND: Final = (401, 404)  # The Hub responds with 401 for private and for missing items.


def models_of_collection(slug: str, access: HubAccess) -> tuple[list[str], int]:
    """Return the repo ids of a collection's models, in its order, and the number of its items that are not models.

    `slug` is `author/title-id`, or the address of the collection's page.

    Raises:
        ModelListNotFoundError: The collection does not exist, or the token has no access.
    """
    slug = slug.rstrip("/").rpartition("/collections/")[2]

    def asked() -> list[CollectionItem]:
        with _asking(f"the collection {slug}", access) as api:
            return api.get_collection(slug).items

    items = waiting_out(asked, Deadline())
    models = [item.item_id for item in items if item.item_type == "model"]
    return list(dict.fromkeys(models)), len(items) - len(models)


def models_of_author(author: str, tags: Sequence[str], limit: int | None, access: HubAccess) -> list[str]:
    """Return the repo ids of an author's models, sorted by name; with a limit, of the most downloaded ones.

    Each model has all `tags`: a task, a library, a language, `license:mit`.

    Raises:
        ModelListNotFoundError: The author has no such models.
    """
    options: dict[str, Any] = {} if limit is None else {"sort": "downloads", "limit": limit}

    def asked() -> list[str]:
        with _asking(f"the list of models of {author}", access) as api:
            found = api.list_models(author=author, filter=list(tags) or None, **options)
            return sorted({model.id for model in itertools.islice(found, limit)})

    names = waiting_out(asked, Deadline())
    if not names:
        wanted = f" with the tags {', '.join(tags)}" if tags else ""
        raise ModelListNotFoundError(
            f"{author} has no models{wanted} that this token can access. Check the name on the Hub, and HF_TOKEN."
        )
    return names


@contextmanager
def _asking(what: str, access: HubAccess) -> Iterator[HfApi]:
    if access.local_files_only:
        raise OfflineError(
            f"{what[:1].upper()}{what[1:]} must be requested from the Hub, and local_files_only is set. Run without "
            "it."
        )
    from huggingface_hub import HfApi

    api = HfApi(token=access.token)
    try:
        with translated_errors(what, None):
            yield api
    except OptimumHTPError as error:
        statuses = {getattr(getattr(cause, "response", None), "status_code", None) for cause in causes(error)}
        if statuses & set(_NOT_FOUND):
            raise ModelListNotFoundError(
                f"The Hub does not have {what}, or this token has no access to it. Check the name, and HF_TOKEN."
            ) from error
        raise
    except (KeyError, TypeError) as error:  # huggingface_hub does not check the fields.
        raise HubServerError(
            f"The response of {api.endpoint} for {what} is not a list of models. Check HF_ENDPOINT."
        ) from error
