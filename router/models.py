"""Many models behind one router (`--enable-igw`): which workers serve the one that is asked for.

A worker serves the name it was registered with (`model_id`), else the names it lists at
`/v1/models`. All workers of one name are a group, with the policy of that model. The table is made
anew when a worker comes, goes, or says something else, so that a request costs a look-up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from router.core.facts import RequestFacts
from router.core.model_names import Served, served
from router.core.worker import Worker
from router.errors import BadRequest, ModelNotFound, NoWorker
from router.fleet import Group
from router.member import Member
from router.policies.base import Policy
from router.policy_choice import Policies, PolicyChoice

log = logging.getLogger("router.models")

POLICY_LABEL: Final = "policy"
NAMES_SHOWN: Final = 8
NO_NAME: Final = (None, "", "unknown")  # sglang-router's word for a request without a model


class Models:
    """`members` are the registered workers, `everyone` the group of all of them.

    `aliases`: other name -> name of a model. `choices`: policies by model; a worker's label
    `policy` chooses where they say nothing. `allow` is told of all names there are.
    """

    def __init__(
        self,
        members: Callable[[], Iterable[Member]],
        everyone: Group,
        policies: Policies,
        *,
        aliases: Mapping[str, str],
        choices: Mapping[str, PolicyChoice],
        allow: Callable[[Iterable[str]], None] = lambda _names: None,
    ) -> None:
        self._members = members
        self._everyone = everyone
        self._policies = policies
        self.aliases = aliases
        self._choices = choices
        self._allow = allow
        self._groups: dict[str, Group] = {}
        self._main: list[str] = []
        self._listed: list[str] = []
        self._count = 0
        self._stale = False

    @property
    def names(self) -> list[str]:
        """What clients may ask for, aliases included; `base:adapter` is not repeated here."""
        if self._stale:
            self._make()
        return self._listed

    def group(self, facts: RequestFacts) -> Group:
        """Who serves a request with a body.

        Raises ModelNotFound; NoWorker while no worker has said yet what it serves; BadRequest
        where no model is named and there are several.
        """
        if self._stale:
            self._make()
        name = facts.served_model or facts.model
        group = self._groups.get(name or "")
        if group is not None:
            return group
        if not self._groups:
            raise NoWorker("No available workers: none has said yet which model it serves")
        if name not in NO_NAME:
            raise ModelNotFound(f"The model {facts.model!r} does not exist{self._known()}")
        if len(self._main) == 1:
            return self._groups[self._main[0]]
        raise BadRequest(
            f"the request names no model, and several are served{self._known()}", param="model"
        )

    def _known(self) -> str:
        names = self._listed
        return f"; expected one of {', '.join(names)}" if len(names) <= NAMES_SHOWN else ""

    def changed(self) -> None:
        """Workers have come, gone, or said something else.

        The table is made when it is asked next, so that a thousand workers that come together cost
        one of it (3 ms); at once where one has gone, as requests that wait hold their group.
        """
        before, self._count = self._count, len(list(self._members()))
        self._stale = True
        if self._count < before:
            self._make()

    def _make(self) -> None:
        self._stale = False
        workers: dict[str, list[Worker]] = {}
        related: dict[str, tuple[str, ...]] = {}
        labels: dict[str, tuple[str, str]] = {}  # name -> worker's URL, its label
        main: dict[str, None] = {}
        plain: set[str] = set()
        for member in self._members():
            serves = served_by(member)
            if not serves.bases:
                continue
            main[serves.bases[0]] = None
            for worker in member.everything:
                worker.model_id = serves.bases[0]
            plain.update(serves.bases, serves.adapters)
            label = member.labels.get(POLICY_LABEL)
            for name, nearest in serves.names().items():
                workers.setdefault(name, []).extend(member.targets)
                related.setdefault(name, nearest)
                if label is not None:
                    # The same at every replica, in whatever order they heard of the workers.
                    said = (member.worker.url, label)
                    labels[name] = min(said, labels.get(name, said))
        for name in self._groups.keys() - workers.keys():
            self._groups.pop(name).workers = ()  # requests that wait hold the group itself
        for name, serving in workers.items():
            policy = self._policy(related[name], labels.get(name))
            group = self._groups.setdefault(name, Group(policy, serving))
            group.policy, group.workers = policy, serving
        self._main = list(main)
        known = {alias for alias, model in self.aliases.items() if model in workers}
        self._listed = sorted(plain | known)
        self._allow(workers)

    def _policy(self, related: tuple[str, ...], label: tuple[str, str] | None) -> Policy:
        for name in related:
            if (choice := self._choices.get(name)) is not None:
                return self._policies.of(choice)
        if label is not None:
            policy = self._policies.named(label[1])
            if policy is not None:
                return policy
            log.warning("worker %s: label policy=%s names no policy", *label)
        return self._everyone.policy


def served_by(member: Member) -> Served:
    """What a registered worker serves, as far as it is known."""
    worker = member.worker
    return served(member.model_id, worker.model_ids, worker.adapters)
