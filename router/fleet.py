"""The workers this replica knows, and which of them a request may go to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from router.core.shared_load import SharedLoad
from router.core.worker import Role, Worker
from router.policies.base import Policy


class Group:
    """Workers that can serve the same requests, and the policy that chooses among them.

    `workers` is read at each request: it may be a list that others change. `kind` says in words
    what they are.
    """

    __slots__ = ("kind", "policy", "workers")

    def __init__(self, policy: Policy, workers: Sequence[Worker], kind: str = "workers") -> None:
        self.policy = policy
        self.workers = workers
        self.kind = kind

    def candidates(self, now: float, tried: Collection[Worker]) -> list[Worker]:
        """Workers that may take a request now; tried ones only when no other is left."""
        available = []
        worker: Worker
        for worker in self.workers:
            if worker.ready or worker.available(now):
                available.append(worker)
        if not tried:
            return available
        return [worker for worker in available if worker not in tried] or available

    def others_left(self, now: float, tried: Collection[Worker]) -> bool:
        """Is there a worker to go to that was not tried yet?"""
        return any(worker.available(now) and worker not in tried for worker in self.workers)

    def why_none(self) -> str:
        """Why there are no candidates, for the client."""
        if not self.workers:
            return f"No available {self.kind}: none is registered"
        out = ", ".join(f"{worker.node_id} {why_not(worker)}" for worker in self.workers[:8])
        return f"No available {self.kind} (all circuits open or unhealthy): {out}"

    def __repr__(self) -> str:
        return f"<Group {self.policy.name} of {len(self.workers)} workers>"


class Fleet:
    """The registered workers, in the order they were registered.

    `roles` are those that it takes to serve a request: a worker of each. `others` is what other
    replicas have there, and how old that knowledge is.
    """

    def __init__(self, workers: Sequence[Worker], roles: Sequence[Role] = ("regular",)) -> None:
        self.roles = tuple(roles)
        self._workers: list[Worker] = []
        self._by_role: dict[Role, list[Worker]] = {role: [] for role in roles}
        for worker in workers:
            self.add(worker)
        self.others = SharedLoad()
        self.draining = False

    @property
    def workers(self) -> Sequence[Worker]:
        return self._workers

    def of(self, role: Role) -> Sequence[Worker]:
        """Those of one role, now and later. Raises KeyError for a role that is not served here."""
        return self._by_role[role]

    def add(self, worker: Worker) -> None:
        """Raises KeyError for a role that is not served here."""
        self._by_role[worker.role].append(worker)
        self._workers.append(worker)

    def remove(self, worker: Worker) -> None:
        self._by_role[worker.role].remove(worker)
        self._workers.remove(worker)

    @property
    def serves(self) -> bool:
        """Is there a healthy worker of each role?"""
        return all(any(worker.healthy for worker in them) for them in self._by_role.values())

    def room(self) -> int | None:
        """How many requests may run at all workers together; None where no number can be said.

        Who runs at a worker that takes no more is counted in, as such a request is inside still.
        Without a worker in use there is nothing to wait for: who comes is told so at once. Prefill
        workers have no limit: what they hold is gone from there long before it ends.
        """
        places = 0
        in_use = False
        for worker in self._workers:
            if worker.role == "prefill":
                continue
            if worker.max_in_flight is None:
                return None
            if worker.in_use:
                in_use = True
                places += worker.max_in_flight
            else:
                places += worker.in_flight
        return places if in_use else None

    def named(self, target: str) -> str:
        """The worker that `X-SMG-Target-Worker` means: a place in the order of registration,
        counted from 0, is turned into the `node_id`; anything else stays as it is."""
        if target.isdecimal() and int(target) < len(self._workers):
            return self._workers[int(target)].node_id
        return target

    @property
    def engines(self) -> list[Worker]:
        """One worker of each process: what is asked of it as a whole is asked once."""
        first: dict[str, Worker] = {}
        for worker in self._workers:
            first.setdefault(worker.url, worker)
        return list(first.values())

    def ranks(self, engine: Worker) -> list[Worker]:
        """All workers of this one's process, itself included."""
        return [worker for worker in self._workers if worker.url == engine.url]

    def arrange(self, order: Iterable[Worker]) -> None:
        """Put the workers into this order."""
        place = {worker: number for number, worker in enumerate(order)}
        for workers in (self._workers, *self._by_role.values()):
            workers.sort(key=place.__getitem__)

    def by_url(self, url: str) -> Worker | None:
        return next((worker for worker in self._workers if worker.url == url), None)

    def __repr__(self) -> str:
        healthy = sum(worker.healthy for worker in self._workers)
        running = sum(worker.in_flight for worker in self._workers)
        return f"<Fleet {len(self._workers)} workers: {healthy} healthy | {running} in flight>"


def why_not(worker: Worker) -> str:
    """Why a worker is no candidate, in a few words for the client; no addresses."""
    if not worker.healthy:
        return f"is {worker.health.state}"
    if worker.draining:
        return "is draining"
    return "is full" if worker.full else "has its circuit open"
