"""Whatever the order of events and lists, the picture of the pods ends as the truth."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from router.discovery.pods import Pod, Pods, Selected, worker_of
from tests.kubernetes_api import Object
from tests.kubernetes_api import pod as as_told

REGULAR = Selected("regular", 8000, "port")
NAMES, ADDRESSES = st.sampled_from(["a", "b"]), st.sampled_from(["10.0.0.1", "10.0.0.2", ""])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "recreate", "lose a deletion", "list"]),
        NAMES,
        ADDRESSES,
        st.booleans(),
    ),
    max_size=30,
)


def decoded(told: Object) -> Pod:
    return msgspec.convert(told, Pod)


def urls(pods: Pods) -> set[str]:
    return {worker_of(pod, REGULAR).url for pod in pods.ready()}


@given(STEPS)
def test_any_order_of_events_and_lists_ends_as_the_truth(steps):
    truth: dict[str, Object] = {}
    pods, births, lost = Pods(), 0, False
    for what, name, ip, ready in steps:
        before = truth.get(name)
        if what in ("put", "recreate"):
            births += before is None or what == "recreate"
            uid = (
                f"u{births}" if before is None or what == "recreate" else before["metadata"]["uid"]
            )
            if before is not None and what == "recreate":
                pods.apply("DELETED", decoded(before))
            truth[name] = as_told(name, ip, uid=uid, ready=ready)
            pods.apply("MODIFIED" if before is not None else "ADDED", decoded(truth[name]))
        elif what == "list":
            pods.replace(map(decoded, truth.values()))
            lost = False
        elif before is not None:
            del truth[name]
            if what == "delete":
                pods.apply("DELETED", decoded(before))
            else:
                lost = True
    if lost:
        pods.replace(map(decoded, truth.values()))
    wanted = Pods()
    wanted.replace(map(decoded, truth.values()))
    assert pods.ready() == wanted.ready()
    assert urls(pods) == {
        f"http://{one['status']['podIP']}:8000" for one in truth.values() if decoded(one).ready
    }


def test_the_deletion_of_a_pod_that_has_a_successor_is_old_news():
    pods = Pods()
    pods.apply("ADDED", decoded(as_told("vllm-0", "10.0.0.2", uid="second")))
    pods.apply("DELETED", decoded(as_told("vllm-0", "10.0.0.1", uid="first")))
    assert urls(pods) == {"http://10.0.0.2:8000"}


def test_a_deletion_takes_no_worker_from_another_pod_at_the_same_address():
    pods = Pods()
    old = decoded(as_told("a", "10.0.0.1"))
    pods.apply("ADDED", old)
    pods.apply("ADDED", decoded(as_told("b", "10.0.0.1", created="2026-02-01T00:00:00Z")))
    assert [pod.metadata.name for pod in pods.ready()] == ["b", "a"]
    pods.apply("DELETED", old)
    assert urls(pods) == {"http://10.0.0.1:8000"}


def test_addresses_of_ipv6_stand_in_brackets():
    pods = Pods()
    pods.apply("ADDED", decoded(as_told("a", "fd00::1")))
    assert urls(pods) == {"http://[fd00::1]:8000"}
