"""What a router is made of, and who knows whom: every part is built here, and nowhere else.

Nothing runs yet and nothing is connected; `router.app` starts and stops what is built here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from importlib.metadata import version
from random import Random
from secrets import randbits

from router.api.abort import AbortApi
from router.api.access import Access
from router.api.admin import AdminApi
from router.api.cors import Cors
from router.api.dispatch import Dispatcher
from router.api.export import ExportApi
from router.api.forwarding import Forwarding, Pairs
from router.api.gate import Gate
from router.api.guard import ConnectionLimits
from router.api.metrics import MetricsApi
from router.api.openapi import OpenApi
from router.api.probes import ProbesApi
from router.api.record import Recorder
from router.api.request_log import RequestLog
from router.api.routing import RouteTable
from router.api.server import Listener
from router.api.tail import TailApi
from router.api.traces import TracesApi
from router.api.ui import UiApi
from router.api.watch import Watch
from router.api.workers import WorkersApi
from router.caches import Caches
from router.clock import Clock
from router.config import Config
from router.core.admission import AdmissionSettings
from router.core.headers import HeaderRules
from router.core.paths import GENERATION, ForwardPaths
from router.core.prefix_news import PrefixNews
from router.core.retry import RetryBudget
from router.decision_csv import DecisionCsv
from router.discovery.alone import OwnLists
from router.discovery.discovery import Discovery
from router.discovery.sources import sources_of
from router.fleet import Fleet, Group
from router.learning import Learning
from router.metrics import IndexState, Metrics, SharedState, Sources
from router.models import Models
from router.names import LocalNames
from router.outbox import Outbox, end_of_turn
from router.policy_choice import Policies
from router.policytype import PolicyType
from router.registry import Registry
from router.roster import Roster
from router.settings import forwarding_settings, listed, registry_settings
from router.shared import Sharing
from router.tasks import Tasks
from router.telemetry.export import span_export
from router.telemetry.spans import Spans, sampler_of
from router.upstream.abort import Aborter
from router.upstream.control import Control
from router.upstream.pools import Pools
from router.upstream.prober import Prober, ProberSettings
from router.upstream.tls import server_context, worker_context
from tracking.lifecycle import LiveTrace
from tracking.tracker import Tracker, TrackerConfig
from tracking.view import StoreState


class Parts:
    """The parts of one router, by its settings. It reads files: certificates, policies, our version."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.clock = Clock()
        random = Random(randbits(256))
        self.fleet = Fleet([], ("prefill", "decode") if config.pd_disaggregation else ("regular",))
        self.tasks = Tasks()
        self.request_log = RequestLog(self.clock.now)
        self.watch = Watch(self.clock.now)
        self.tracker = self._tracker() if config.enable_request_tracking else None
        self.metrics = Metrics(
            Sources(
                workers=lambda: self.fleet.workers,
                open_requests=lambda: self.forwarding.open_requests,
                queued_requests=lambda: self.gate.counts.waiting,
                store=self.store_state,
                shared=self.shared_state,
                index=self.index_state,
                spans=lambda: None if self.span_export is None else self.span_export.counts(),
                discovery=lambda: [] if self.discovery is None else self.discovery.states(),
            ),
            version=version("llm-trace-router"),
            hide_worker_urls=config.hide_worker_urls,
            listed_models_only=config.enable_igw,
            pairs=config.pd_disaggregation,
            **(
                {"duration_buckets": config.prometheus_duration_buckets}
                if config.prometheus_duration_buckets
                else {}
            ),
        )
        self.metrics_api = MetricsApi(self.metrics)
        self.gate = Gate(
            AdmissionSettings(
                max_concurrent=config.max_concurrent_requests,
                queue_size=config.queue_size,
                queue_timeout_seconds=config.queue_timeout_secs,
                rate_per_second=config.rate_limit_tokens_per_second,
            ),
            self.clock,
            room=self.fleet.room if config.max_requests_per_worker else None,
        )
        worker_tls = worker_context(
            config.ca_cert_paths, config.client_cert_path, config.client_key_path
        )
        self.control = Control(tls=worker_tls)
        self.aborter = Aborter(self.control, self.metrics)
        self.outbox = Outbox(end_of_turn)
        self.pools = Pools(
            outbox=self.outbox,
            tls=worker_tls,
            connect_timeout_seconds=config.connect_timeout_secs,
            keepalive_seconds=config.keepalive_timeout_secs,
            hide_worker_urls=config.hide_worker_urls,
        )
        self.policies = policies = Policies(config, random)
        everyone = Group(policies.default, self.fleet.workers)
        pairs = self._pairs() if config.pd_disaggregation else None
        self.models = self._models(everyone) if config.enable_igw else None
        others = None if self.tracker is None or self.tracker.private else self.tracker
        # A worker's label may ask for a policy that is not there yet.
        knows_prefixes = config.enable_igw or any(p.prefixes is not None for p in policies.all)
        self.caches = Caches(
            policies.all, PrefixNews() if others is not None and knows_prefixes else None
        )
        learns = any(policy.learns for policy in policies.all)
        self.learning = (
            Learning(policies.all, others, config.router_id)
            if others is not None and learns
            else None
        )
        folder = config.marginal_utility_output_dir
        self.decision_csv = None if folder is None else DecisionCsv(folder, config.router_id)
        self.span_export = span_export(config.router_id, os.environ)
        self.forwarding = Forwarding(
            settings=forwarding_settings(config),
            fleet=self.fleet,
            policies=policies.all,
            group=everyone,
            models=self.models,
            caches=self.caches,
            recorder=Recorder(
                self._put(),
                self.clock,
                config.router_id,
                policies.default.name,
                self.decision_csv,
                None if self.span_export is None else self.span_export.ended,
            ),
            pools=self.pools,
            outbox=self.outbox,
            gate=self.gate,
            budget=RetryBudget(),
            headers=HeaderRules(
                forward=config.forward_headers,
                guarded=config.api_key is not None,
                hide_worker_urls=config.hide_worker_urls,
            ),
            metrics=self.metrics,
            watch=self.watch,
            aborter=self.aborter,
            request_log=self.request_log,
            clock=self.clock,
            random=random,
            spawn=self.tasks.spawn,
            pairs=pairs,
        )
        self.prober = Prober(
            ProberSettings(
                interval_seconds=config.health_check_interval_secs,
                timeout_seconds=config.health_check_timeout_secs,
                endpoint=config.health_check_endpoint,
                learn_again=config.enable_igw,
            ),
            random,
            tls=worker_tls,
            restarted=lambda worker: self.registry.cache_lost(
                worker, "its process was started again"
            ),
            learned=lambda worker: self.registry.learned(worker),
        )
        self.registry = Registry(
            registry_settings(config),
            fleet=self.fleet,
            names=self.tracker or LocalNames(),
            prober=self.prober,
            pools=self.pools,
            caches=self.caches,
            metrics=self.metrics,
            clock=self.clock,
        )
        self.discovery: Discovery | None = None
        if self.models is not None:
            self.registry.changed = self.models.changed
        self.sharing = self._sharing()
        self.dispatcher = self._dispatcher(Random(randbits(256)))
        self.listener = Listener(
            self.dispatcher,
            outbox=self.outbox,
            forward=self.dispatcher.forward,
            tls=server_context(config.tls_cert_path, config.tls_key_path),
            limits=ConnectionLimits(
                max_header_bytes=config.max_header_bytes,
                header_read_seconds=config.header_read_timeout_secs,
                idle_seconds=config.idle_connection_timeout_secs,
                max_connections=config.max_connections,
            ),
        )

    # -- parts -----------------------------------------------------------------------------

    def _pairs(self) -> Pairs:
        config, fleet, policies = self.config, self.fleet, self.policies
        prefill = policies.of(config.prefill_policy or config.policy)
        decode = policies.of(config.decode_policy or PolicyType.PowerOfTwo)
        return Pairs(
            config.pd_protocol,
            Group(prefill, fleet.of("prefill"), "prefill workers"),
            Group(decode, fleet.of("decode"), "decode workers"),
        )

    def _policy_names(self) -> str:
        pairs = self.forwarding.pairs
        if pairs is None:
            return self.forwarding.group.policy.name
        return f"{pairs.prefill.policy.name} for prefill, {pairs.decode.policy.name} for decode"

    def _tracker(self) -> Tracker:
        config = self.config
        return Tracker(
            TrackerConfig(
                router_id=config.router_id,
                redis_url=config.redis_url,
                fleet=config.fleet,
                max_entries=config.max_trace_entries,
                ttl_seconds=config.trace_ttl,
                buffer_bytes=config.trace_buffer_bytes,
            ),
            now=self.clock.now,
            synchronise=self.clock.synchronise,
            renamed=lambda names: self.registry.renamed(names),
            on_flush=lambda seconds, records: self.metrics.flush_observed(seconds, records),
        )

    def _models(self, everyone: Group) -> Models:
        config, policies = self.config, self.policies
        choices = {each.model: each.policy for each in config.model_policy}
        for choice in choices.values():
            policies.of(choice)
        return Models(
            lambda: self.registry.members,
            everyone,
            policies,
            aliases={each.alias: each.model for each in config.model_alias},
            choices=choices,
            allow=self.metrics.allow_models,
        )

    def _sharing(self) -> Sharing | None:
        tracker = None if self.tracker is None or self.tracker.private else self.tracker
        sources = sources_of(self.config, os.environ, Random(randbits(256)), self.clock.now)
        if tracker is None and not sources:
            return None
        started, hurry = self.clock.now(), asyncio.Event()

        def follow_alone() -> None:
            self.tasks.spawn(roster.synchronise(0, frozenset()), "lists of workers")

        roster = Roster(
            tracker or OwnLists(self.clock.unix_us),
            self.registry,
            listed(self.config),
            started_us=lambda: self.clock.unix_us(started),
            hurry=follow_alone if tracker is None else hurry.set,
        )
        if sources:
            self.discovery = Discovery(sources, roster.list_found, self.clock.unix_us)
        if tracker is None:
            return None
        return Sharing(
            tracker.share,
            self.fleet,
            self.caches,
            roster.synchronise,
            self.clock.now,
            sees_clearly=tracker.sees_clearly,
            hurry=hurry,
            on_call=self.metrics.share_observed,
        )

    def _put(self) -> Callable[[LiveTrace], None]:
        return (lambda _live: None) if self.tracker is None else self.tracker.put

    def _dispatcher(self, random: Random) -> Dispatcher:
        config = self.config
        access = Access(config.api_key, config.admin_keys)
        routes = [
            *TracesApi(self.tracker, self.clock.unix_us).routes(),
            *TailApi(
                None if self.tracker is None else self.tracker.tail, self.clock.unix_us
            ).routes(),
            *ExportApi(self.tracker, self.clock.unix_us).routes(),
            *ProbesApi(self.fleet, self.store_state, self.metrics.version, self.models).routes(),
            *WorkersApi(self.registry).routes(),
            *AdminApi(self.fleet, self.control, self.caches, self.metrics).routes(),
            *AbortApi(self.fleet, self.control, self.tracker, access).routes(),
            *UiApi().routes(),
        ]
        if config.prometheus_port is None:
            routes += self.metrics_api.routes()
        routes += OpenApi(routes, GENERATION, self.metrics.version, access.asks).routes()
        return Dispatcher(
            table=RouteTable(routes),
            paths=ForwardPaths(config.forward_paths),
            forwarding=self.forwarding,
            access=access,
            request_id_headers=config.request_id_headers,
            cors=Cors(config.cors_allowed_origins) if config.cors_allowed_origins else None,
            request_log=self.request_log,
            metrics=self.metrics,
            clock=self.clock,
            random_bits=random.getrandbits,
            spans=None
            if self.span_export is None
            else Spans(sampler_of(os.environ), random.getrandbits),
        )

    def shared_state(self) -> SharedState | None:
        if self.sharing is None:
            return None
        others, news = self.fleet.others, self.caches.news
        return SharedState(
            replicas=1 + others.replicas,
            load_age_seconds=others.age_seconds(self.clock.now()),
            untold=0 if news is None else news.dropped,
        )

    def index_state(self) -> IndexState | None:
        known = [p.prefixes for p in self.policies.all if p.prefixes is not None]
        if not known:
            return None
        return IndexState(sum(map(len, known)), sum(index.bytes_used for index in known))

    def store_state(self) -> StoreState | None:
        return None if self.tracker is None else self.tracker.state()
