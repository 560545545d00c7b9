"""The API of duplicates: groups of them, a page at a time, and pairs that are none."""

from datetime import datetime
from itertools import combinations
from typing import Any, get_args

from starlette.requests import Request

from bitgaze.gallery.duplicates import Duplicate, DuplicateGroup, Tier
from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.items import Item, image_identity
from bitgaze.server.answers import Answer, Refusal
from bitgaze.server.groups import Abandoned
from bitgaze.server.items import item_to_json, name_of
from bitgaze.server.parameters import boolean, choice, integer, keys_of, parameters_of
from bitgaze.server.state import item_of, state_of

TIERS: tuple[Tier, ...] = get_args(Tier)

_MAX_GROUPS, _MAX_MEMBERS, _MAX_KEYS = 50, 60, 24
_FIRST_GROUPS = 20
_MAX_FIRST = 999_999_999


async def duplicates(request: Request) -> Answer:
    """Some of the groups in one tier; status 202 while they are being computed."""
    parameters = parameters_of(request, "tier", "first", "count", "state")
    tier = choice(parameters, "tier", TIERS) or "copy"
    first = integer(parameters, "first", 0, _MAX_FIRST) or 0
    count = integer(parameters, "count", 1, _MAX_GROUPS) or _FIRST_GROUPS
    state = state_of(request)
    look_alikes = tier == "look-alike"
    found = await state.run_reading(
        lambda: state.groups.get(parameters.get("state"), look_alikes=look_alikes)
    )
    await found.wait()
    if found.error is not None and not isinstance(found.error, Abandoned):
        raise found.error
    if found.groups is None:
        return Answer({"state": found.state, "done": found.done, "total": found.total}, 202)
    known = found.groups

    def work() -> dict[str, Any]:
        by_tier = {one: [group for group in known if _tier(group) == one] for one in TIERS}
        groups = by_tier[tier]
        others = [other for group in groups for other in group.others]
        counts: dict[str, int | None] = {one: len(by_tier[one]) for one in TIERS}
        if look_alikes:  # which join groups of the other tiers
            counts |= {"identical": None, "copy": None}
        elif state.gallery.has_structure:
            counts["look-alike"] = None
        return {
            "state": found.state,
            "tier": tier,
            "counts": counts,
            "bytes": sum(other.file_bytes or 0 for other in others),
            "images": len(others),
            "first": first,
            "groups": [
                _group_to_json(state.gallery, group) for group in groups[first : first + count]
            ],
        }

    return Answer(await state.run_reading(work))


async def set_distinct(request: Request) -> Answer:
    """Remember that some items are not duplicates of one another."""
    parameters = parameters_of(request, "keys", "distinct")
    keys = keys_of(parameters, "keys", 2, _MAX_KEYS)
    are_distinct = boolean(parameters, "distinct", default=True)
    state = state_of(request)

    def work() -> None:
        items = [item_of(state.gallery, key) for key in keys]
        names = {
            image_identity(item.key, item.file.content if item.file else None, item.code)
            for item in items
        }
        if len(names) < len(keys):
            raise Refusal(
                409,
                "identical_files",
                "Two of the items have identical files, which cannot be called distinct.",
            )
        state.groups.set_distinct(combinations(keys, 2), are_distinct=are_distinct)

    await state.run_reading(work)
    return Answer({"keys": keys, "distinct": are_distinct})


def _tier(group: DuplicateGroup) -> Tier:
    """The tier of a group's least certain member."""
    tiers = [TIERS.index(other.tier) for other in group.others if other.tier is not None]
    return TIERS[max(tiers)]


def _group_to_json(gallery: Gallery, group: DuplicateGroup) -> dict[str, Any]:
    shown = group.others[:_MAX_MEMBERS]
    return {
        "best": _member_to_json(gallery, group.best),
        "others": [_member_to_json(gallery, other) for other in shown],
        "left_out": len(group.others) - len(shown),
    }


def _member_to_json(gallery: Gallery, member: Duplicate) -> dict[str, Any]:
    item = gallery.get(member.key, None)
    if item is None:  # removed since
        facts = {"key": member.key, "name": name_of(member.key), "has_image": False}
        facts |= {"width": None, "height": None}
    else:
        facts = item_to_json(item)
    if facts["width"] is None and member.size is not None:
        facts |= {"width": member.size[0], "height": member.size[1]}
    return facts | {
        "path": member.path,
        "file_bytes": member.file_bytes,
        "date": _date(item),
        "tier": member.tier,
        "distance": member.distance,
    }


def _date(item: Item | None) -> str | None:
    """When an image was taken, else when its file was changed; local time."""
    if item is None:
        return None
    taken = (item.properties or {}).get("date")
    if isinstance(taken, str) or item.file is None:
        return taken
    try:
        changed = datetime.fromtimestamp(item.file.mtime_ns / 1e9)
    except (OverflowError, OSError, ValueError):  # a date that no calendar has
        return None
    return changed.isoformat(timespec="seconds")
