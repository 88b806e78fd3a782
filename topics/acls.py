"""The least ACLs of each role, as Kafka's StandardAuthorizer needs them."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from topics import names

Operation = Literal["Create", "Describe", "DescribeConfigs", "Read", "Write"]


class Role(StrEnum):
    worker = "worker"
    edge = "edge"
    gateway = "gateway"
    crm = "crm"
    operator = "operator"


@dataclass(frozen=True)
class Acl:
    """Allows operations on a resource, or, with `prefixed`, on all resources whose names begin so. Read and Write
    include Describe."""

    resource: Literal["topic", "group", "transactional-id"]
    name: str
    operations: Sequence[Operation]
    prefixed: bool = False

    def covers(self, name: str) -> bool:
        """True if the ACL is about the resource with this name."""
        return name.startswith(self.name) if self.prefixed else name == self.name

    def command(self, principal: str, bootstrap: str) -> str:
        """The command of Kafka's tools that adds this ACL."""
        operations = [word for operation in self.operations for word in ("--operation", operation)]
        pattern = ["--resource-pattern-type", "prefixed"] if self.prefixed else []
        return shlex.join([
            "kafka-acls.sh", "--bootstrap-server", bootstrap, "--add", "--allow-principal", principal, *operations,
            f"--{self.resource}", self.name, *pattern,
        ])  # fmt: skip


def of_role(role: Role, families: Sequence[str], group: str) -> list[Acl]:
    """`families`: of a gateway, those that it sends requests of; of a CRM, those whose changes it reads; of the other
    roles, all. `group`: of a worker and an operator, VISITOR_WORKER_GROUP; of a gateway and a CRM, the prefix of their
    groups."""
    match role:
        case Role.worker:
            return list(_of_worker(families, group))
        case Role.edge:
            return list(_of_edge(families))
        case Role.gateway:
            return [*_gateway_topics(families), Acl("group", group, ["Read"], prefixed=True)]
        case Role.crm:
            changes = [Acl("topic", names.changes(family, ""), ["Read"], prefixed=True) for family in families]
            return [*changes, Acl("group", group, ["Read"], prefixed=True)]
        case Role.operator:
            topics = Acl("topic", "visitor.", ["Create", "Describe", "DescribeConfigs", "Read"], prefixed=True)
            return [topics, Acl("group", f"{group}.", ["Describe"], prefixed=True)]


def _of_worker(families: Sequence[str], group: str) -> Iterator[Acl]:
    for family in families:
        yield Acl("topic", names.requests(family), ["Read"])
        yield Acl("topic", names.results(family), ["Write"])
        yield Acl("topic", names.changes(family, ""), ["Write"], prefixed=True)
    yield Acl("topic", names.QUERIES, ["Read"])
    yield Acl("topic", names.REPLIES, ["Write"])
    yield Acl("topic", names.DEAD_LETTERS, ["Write"])
    yield Acl("group", f"{group}.", ["Read"], prefixed=True)
    yield Acl("transactional-id", f"{group}.", ["Write"], prefixed=True)


def _of_edge(families: Sequence[str]) -> Iterator[Acl]:
    for family in families:
        yield Acl("topic", names.requests(family), ["Write"])
    yield Acl("topic", names.QUERIES, ["Write"])
    yield Acl("topic", names.REPLIES, ["Read"])


def _gateway_topics(families: Sequence[str]) -> Iterator[Acl]:
    for family in families:
        yield Acl("topic", names.requests(family), ["Write"])
        yield Acl("topic", names.results(family), ["Read"])
