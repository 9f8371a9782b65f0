"""Canned ACLs: who may do what, as XML and from XML. Pure.

Only what a canned ACL can say is supported; any other set of grants is refused.
"""

from enum import Enum
from typing import Final

import msgspec

from pinfold.s3.documents import Node
from pinfold.s3.errors import Refused
from pinfold.s3.xml import INSTANCE, Writer

PRIVATE: Final = "private"
PUBLIC_READ: Final = "public-read"
PUBLIC_READ_WRITE: Final = "public-read-write"
AUTHENTICATED_READ: Final = "authenticated-read"
OWNER_READ: Final = "bucket-owner-read"
OWNER_FULL: Final = "bucket-owner-full-control"

ALL_USERS: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
AUTHENTICATED: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"

_GROUP_GRANTS: Final[dict[str, frozenset[tuple[str, str]]]] = {
    PRIVATE: frozenset(),
    PUBLIC_READ: frozenset({(ALL_USERS, "READ")}),
    PUBLIC_READ_WRITE: frozenset({(ALL_USERS, "READ"), (ALL_USERS, "WRITE")}),
    AUTHENTICATED_READ: frozenset({(AUTHENTICATED, "READ")}),
}

BUCKET_CANNED: Final = frozenset(_GROUP_GRANTS)
OBJECT_CANNED: Final = BUCKET_CANNED | {OWNER_READ, OWNER_FULL}


class Permission(Enum):
    """What somebody wants to do to a bucket or an object."""

    READ = "READ"
    WRITE = "WRITE"
    READ_ACP = "READ_ACP"
    WRITE_ACP = "WRITE_ACP"


class Identity(msgspec.Struct, frozen=True):
    """Who sent the request; anonymous when `user` is empty."""

    user: str
    display_name: str

    @property
    def anonymous(self) -> bool:
        """Whether nobody signed."""
        return not self.user


ANONYMOUS: Final = Identity("", "")


def allows(
    acl: str, permission: Permission, who: Identity, *, owner: str, bucket_owner: str = ""
) -> bool:
    """Whether a canned ACL lets somebody do something."""
    if who.user and who.user == owner:
        return True
    if who.user and who.user == bucket_owner:
        if acl == OWNER_FULL:
            return True
        if acl == OWNER_READ and permission is Permission.READ:
            return True
    grants = _GROUP_GRANTS.get(acl, frozenset())
    if (ALL_USERS, permission.value) in grants:
        return True
    return not who.anonymous and (AUTHENTICATED, permission.value) in grants


def canned(headers: dict[str, str], known: frozenset[str]) -> str | None:
    """The canned ACL a request's headers ask for, if they ask for one."""
    name = headers.get("x-amz-acl")
    if name is None:
        return None
    if name not in known:
        if name in OBJECT_CANNED or name in ("log-delivery-write", "aws-exec-read"):
            raise Refused("NotImplemented", f"the canned ACL {name} is not implemented here")
        raise Refused("InvalidArgument", "x-amz-acl is not a canned ACL")
    return name


def to_xml(acl: str, owner: Identity, bucket_owner: Identity | None = None) -> bytes:
    """The grants of a canned ACL as an AccessControlPolicy."""
    writer = Writer("AccessControlPolicy")
    write_owner(writer, "Owner", owner)
    with writer.inside("AccessControlList"):
        for uri, permission in sorted(_GROUP_GRANTS.get(acl, ())):
            with writer.inside("Grant"):
                with writer.inside("Grantee", f'xmlns:xsi="{INSTANCE}" xsi:type="Group"'):
                    writer.leaf("URI", uri)
                writer.leaf("Permission", permission)
        _grant_user(writer, owner, "FULL_CONTROL")
        if bucket_owner is not None and bucket_owner.user != owner.user:
            if acl == OWNER_READ:
                _grant_user(writer, bucket_owner, "READ")
            elif acl == OWNER_FULL:
                _grant_user(writer, bucket_owner, "FULL_CONTROL")
    return writer.document()


def write_owner(writer: Writer, name: str, owner: Identity) -> None:
    """An Owner or Initiator element."""
    with writer.inside(name):
        writer.leaf("ID", owner.user)
        writer.leaf("DisplayName", owner.display_name)


def _grant_user(writer: Writer, who: Identity, permission: str) -> None:
    with writer.inside("Grant"):
        attributes = f'xmlns:xsi="{INSTANCE}" xsi:type="CanonicalUser"'
        with writer.inside("Grantee", attributes):
            writer.leaf("ID", who.user)
            writer.leaf("DisplayName", who.display_name)
        writer.leaf("Permission", permission)


def from_xml(policy: Node, owner: str) -> str:
    """The canned ACL with the grants of an AccessControlPolicy; refused when there is none."""
    grants: set[tuple[str, str]] = set()
    listed = policy.child("AccessControlList")
    stated = policy.child("Owner")
    if listed is None or stated is None:
        raise Refused("MalformedACLError")
    if stated.text("ID") != owner:
        raise Refused("AccessDenied", "an ACL cannot change the owner")
    for grant in listed.children("Grant"):
        grantee, permission = grant.child("Grantee"), grant.text("Permission")
        if grantee is None or permission is None:
            raise Refused("MalformedACLError")
        uri, user = grantee.text("URI"), grantee.text("ID")
        if uri is not None:
            grants.add((uri, permission))
        elif user == owner:
            grants.add((owner, permission))
        else:
            raise Refused("NotImplemented", "grants to single users are not implemented")
    grants.discard((owner, "FULL_CONTROL"))
    for name, wanted in _GROUP_GRANTS.items():
        if grants == wanted:
            return name
    raise Refused("NotImplemented", "only the grants of canned ACLs are implemented")
