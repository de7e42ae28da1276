"""The settings of prefill/decode disaggregation: a part of `Config`."""

from __future__ import annotations

from typing import Annotated, Final

from router.core.disaggregation import PdProtocol
from router.discovery_flags import DiscoveryFlags
from router.flag_types import PrefillUrl, gather_prefill, parse_worker_url
from router.flags import Flag
from router.policy_file import PolicyFile, parse_policy
from router.policytype import PolicyType

PD: Final = "Prefill and decode on separate workers"
POLICIES: Final = f"one of {', '.join(PolicyType)}, or FILE.py:CLASS"


class PdFlags(DiscoveryFlags, frozen=True, kw_only=True):
    """Workers that share the work of each request; see docs/disaggregation.md."""

    pd_disaggregation: Annotated[
        bool, Flag(PD, "Send each request to a prefill worker and to a decode worker.")
    ] = False
    prefill: Annotated[
        tuple[PrefillUrl, ...],
        Flag(
            PD,
            "Prefill workers, each with its bootstrap port (SGLang's "
            "--disaggregation-bootstrap-port), or none for the engine's usual one.",
            aliases=("prefill_urls",),
            metavar="URL [PORT]",
            allowed="URL [PORT|none], as often as there are prefill workers",
            gather=gather_prefill,
        ),
    ] = ()
    decode: Annotated[
        tuple[str, ...],
        Flag(
            PD,
            "Decode workers.",
            aliases=("decode_urls",),
            metavar="URL",
            allowed="a list of URLs",
            parse=parse_worker_url,
        ),
    ] = ()
    pd_protocol: Annotated[
        PdProtocol,
        Flag(
            PD,
            "How a pair finds each other: sglang asks both at once (bootstrap_room), vllm one after "
            "the other (kv_transfer_params).",
        ),
    ] = "sglang"
    prefill_policy: Annotated[
        PolicyType | PolicyFile | None,
        Flag(
            PD,
            "How the prefill worker is chosen.",
            metavar="NAME",
            allowed=POLICIES,
            default="that of --policy",
            parse=parse_policy,
        ),
    ] = None
    decode_policy: Annotated[
        PolicyType | PolicyFile | None,
        Flag(
            PD,
            "How the decode worker is chosen (sglang-router: by --policy).",
            metavar="NAME",
            allowed=POLICIES,
            default=PolicyType.PowerOfTwo.value,
            parse=parse_policy,
        ),
    ] = None
