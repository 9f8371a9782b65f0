"""The bodies of admin requests, checked as they are decoded."""

from typing import Annotated

import msgspec

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
Text = Annotated[str, msgspec.Meta(max_length=256)]


class NewVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/volumes. The registry says which names and sizes there are."""

    name: str
    size_bytes: int


class ResizeVolume(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PATCH /v1/volumes/NAME."""

    size_bytes: int
    force: bool = False


class NewUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/users. Keys are drawn when not given."""

    id: Word
    display_name: Text = ""
    email: Text = ""
    access_key: Word | None = None
    secret_key: Word | None = None


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/users/ID/keys. Drawn when not given."""

    access_key: Word | None = None
    secret_key: Word | None = None


class SetActive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """PATCH /v1/users/ID and /v1/keys/KEY."""

    active: bool


class ForceMembers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/groups/GROUP/force-members."""

    members: Annotated[list[int], msgspec.Meta(min_length=1, max_length=16)]
    yes_i_lose_data: bool
    """Must be true: whoever sends this has read what it costs."""
