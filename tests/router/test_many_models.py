"""`--enable-igw`: a request goes to a worker that serves the model it names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.app import App
from router.flag_types import ModelAlias
from router.policy_file import ModelPolicy
from router.policytype import PolicyType
from tests.processes import Processes, RedisProcess
from tests.running import Answer, InProcessWorker, Json, Records, call, running, sim_worker
from tests.sim.call import WorkerConfig
from tests.sim.faults import Fault
from tests.waiting import until


def serving(model: str, *also: str, adapters: Sequence[str] = ()) -> WorkerConfig:
    return WorkerConfig(model=model, also_serves=also, adapters=tuple(adapters))


async def chat(app: App, model: object = None, text: str = "hello", **headers: str) -> Answer:
    body: Json = {"messages": [{"role": "user", "content": text}], "max_tokens": 2}
    if model is not None:
        body["model"] = model
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await call(app, "POST", "/v1/chat/completions", body, headers=named)


def served_by(answer: Answer) -> str:
    assert answer.status == 200, answer.text
    return answer.headers["x-smg-routed-worker-id"]


def error(answer: Answer) -> Json:
    return msgspec.convert(answer.json["error"], Json)


async def listed(app: App) -> list[str]:
    models = (await call(app, "GET", "/v1/models")).json["data"]
    assert isinstance(models, list)
    return [model["id"] for model in models]


async def test_each_request_goes_to_a_worker_that_serves_its_model() -> None:
    async with (
        sim_worker(serving("llama")) as llama,
        sim_worker(serving("qwen")) as qwen,
        sim_worker(serving("qwen")) as qwen_too,
        running(
            llama.url, qwen.url, qwen_too.url, enable_igw=True, policy=PolicyType.RoundRobin
        ) as app,
    ):
        assert {served_by(await chat(app, "llama")) for _ in range(4)} == {llama.url}
        qwens = [served_by(await chat(app, "qwen")) for _ in range(4)]
        assert sorted(qwens) == sorted([qwen.url, qwen_too.url] * 2)


async def test_without_the_flag_the_model_is_not_looked_at() -> None:
    async with (
        sim_worker(serving("llama")) as llama,
        sim_worker(serving("qwen")) as qwen,
        running(llama.url, qwen.url, policy=PolicyType.RoundRobin) as app,
    ):
        reached = {served_by(await chat(app, "no-such-model")) for _ in range(2)}
        assert reached == {llama.url, qwen.url}


async def test_a_model_that_nobody_serves_is_404_and_is_told_which_there_are() -> None:
    async with (
        sim_worker(serving("llama")) as llama,
        sim_worker(serving("qwen", adapters=["sql"])) as qwen,
        running(llama.url, qwen.url, enable_igw=True) as app,
    ):
        records = Records(app)
        answer = await chat(app, "gpt-5", x_request_id="r1")
        assert answer.status == 404
        assert error(answer) == {
            "message": "The model 'gpt-5' does not exist; expected one of llama, qwen, sql",
            "type": "not_found_error",
            "param": "model",
            "code": "model_not_found",
        }
        trace = records.live["r1"]
        assert (trace.status, trace.model, trace.http_status) == ("rejected", "gpt-5", 404)
        assert not llama.sim.records.list("/v1/chat/completions")
        assert not qwen.sim.records.list("/v1/chat/completions")


async def test_no_answer_of_a_worker_is_needed_to_know_that_nobody_is_left() -> None:
    async with (
        sim_worker(serving("llama")) as llama,
        sim_worker(serving("qwen")) as qwen,
        running(llama.url, qwen.url, enable_igw=True) as app,
    ):
        worker = next(w for w in app.fleet.workers if w.url == qwen.url)
        worker.healthy = False
        answer = await chat(app, "qwen")
        assert (answer.status, error(answer)["code"]) == (503, "no_available_workers")
        assert served_by(await chat(app, "llama")) == llama.url
        member = app.registry.find(qwen.url)
        assert member is not None
        app.registry.remove(member)
        assert (await chat(app, "qwen")).status == 404


async def test_before_any_worker_has_said_what_it_serves_nothing_is_404() -> None:
    async with running("http://127.0.0.1:9", enable_igw=True) as app:
        answer = await chat(app, "llama")
        assert (answer.status, error(answer)["code"]) == (503, "no_available_workers")


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_where_all_serve_one_model_it_needs_no_name_and_else_it_does(path: str) -> None:
    body = {"text": "hi", "prompt": "hi", "max_tokens": 2, "sampling_params": {"max_new_tokens": 2}}
    async with (
        sim_worker(serving("llama", "llama-8b", adapters=["sql"])) as llama,
        sim_worker(serving("qwen")) as qwen,
        running(llama.url, enable_igw=True) as app,
    ):
        assert served_by(await call(app, "POST", path, body)) == llama.url
        added = await call(app, "POST", "/workers", {"url": qwen.url})
        assert added.status == 202
        await until(lambda: app.models is not None and "qwen" in app.models.names)
        answer = await call(app, "POST", path, body)
        assert (answer.status, error(answer)["param"]) == (400, "model")
        assert "llama, llama-8b, qwen, sql" in str(error(answer)["message"])
        assert served_by(await call(app, "POST", path, {**body, "model": "qwen"})) == qwen.url


async def test_a_request_without_a_body_goes_to_any_worker() -> None:
    async with (
        sim_worker(serving("llama")) as llama,
        sim_worker(serving("qwen")) as qwen,
        running(llama.url, qwen.url, enable_igw=True) as app,
    ):
        answer = await call(app, "GET", "/v1/responses/resp_1")
        assert answer.headers["x-smg-routed-worker-id"] in (llama.url, qwen.url)


async def test_adapters_are_models_and_may_be_named_with_their_base() -> None:
    async with (
        sim_worker(serving("llama", adapters=["sql"])) as with_sql,
        sim_worker(serving("llama")) as plain,
        running(with_sql.url, plain.url, enable_igw=True, policy=PolicyType.RoundRobin) as app,
    ):
        assert await listed(app) == ["llama", "sql"]
        assert {served_by(await chat(app, "sql")) for _ in range(3)} == {with_sql.url}
        assert {served_by(await chat(app, "llama:sql")) for _ in range(3)} == {with_sql.url}
        assert len({served_by(await chat(app, "llama")) for _ in range(2)}) == 2
        assert (await chat(app, "llama:law")).status == 404


async def test_an_alias_reaches_the_worker_under_the_models_own_name() -> None:
    aliases = (ModelAlias("gpt-4", "llama"), ModelAlias("ghost", "nobody"))
    async with (
        sim_worker(serving("llama")) as llama,
        sim_worker(serving("qwen")) as qwen,
        running(llama.url, qwen.url, enable_igw=True, model_alias=aliases) as app,
    ):
        records = Records(app)
        body = b'{ "messages":[{"role":"user","content":"\\"model\\": 1"}],\n "model" : "gpt-4", "x":1}'
        answer = await call(
            app, "POST", "/v1/chat/completions", body, headers={"X-Request-Id": "r1"}
        )
        assert served_by(answer) == llama.url
        (received,) = llama.sim.records.list("/v1/chat/completions")
        assert received.body == body.replace(b'"gpt-4"', b'"llama"').decode()
        trace = records.live["r1"]
        assert (trace.model, trace.served_model) == ("gpt-4", "llama")
        assert await listed(app) == ["gpt-4", "llama", "qwen"]
        assert (await chat(app, "ghost")).status == 404

        await chat(app, "llama", x_request_id="r2")
        assert records.live["r2"].served_model is None


async def test_names_of_one_model_share_its_prefixes() -> None:
    text = "one long prompt " * 100
    async with (
        sim_worker(serving("llama")) as one,
        sim_worker(serving("llama")) as two,
        running(
            one.url, two.url, enable_igw=True, model_alias=(ModelAlias("gpt-4", "llama"),)
        ) as app,
    ):
        first = served_by(await chat(app, "llama", text))
        assert {served_by(await chat(app, "gpt-4", text)) for _ in range(3)} == {first}


async def test_a_name_given_at_registration_stands_for_the_model() -> None:
    async with (
        sim_worker(serving("default")) as one,
        sim_worker(serving("default", adapters=["sql"])) as two,
        running(enable_igw=True) as app,
    ):
        for worker, name in ((one, "small"), (two, "large")):
            await call(app, "POST", "/workers", {"url": worker.url, "model_id": name})
        await until(lambda: app.models is not None and len(app.models.names) == 3)
        assert await listed(app) == ["large", "small", "sql"]
        assert served_by(await chat(app, "small")) == one.url
        assert served_by(await chat(app, "large")) == two.url
        assert served_by(await chat(app, "large:sql")) == two.url
        assert (await chat(app, "default")).status == 404


async def test_a_worker_that_was_added_is_known_by_its_models_at_once() -> None:
    async with sim_worker(serving("llama")) as worker, running(enable_igw=True) as app:
        added = await call(app, "POST", f"/add_worker?url={worker.url}")
        assert added.status == 200
        assert served_by(await chat(app, "llama")) == worker.url


async def test_a_worker_that_does_not_say_what_it_serves_is_not_added() -> None:
    hang = Fault(kind="hang", paths=("/v1/models",))
    async with (
        sim_worker(WorkerConfig(faults=(hang,))) as worker,
        running(
            enable_igw=True, worker_startup_timeout_secs=1, health_check_timeout_secs=0.5
        ) as app,
    ):
        added = await call(app, "POST", f"/add_worker?url={worker.url}")
        assert added.status == 400
        assert "it does not say what it serves" in added.text


async def test_what_a_worker_loads_later_is_found_with_its_next_check() -> None:
    async with (
        sim_worker(serving("llama")) as worker,
        running(worker.url, enable_igw=True, health_check_interval_secs=0.05) as app,
    ):
        assert (await chat(app, "sql")).status == 404
        worker.sim.config = serving("llama", adapters=["sql"])
        await until(lambda: app.models is not None and "sql" in app.models.names)
        assert (await chat(app, "sql")).status == 200
        worker.sim.config = serving("llama")
        await until(lambda: app.models is not None and "sql" not in app.models.names)
        assert (await chat(app, "sql")).status == 404


async def test_a_form_names_its_model_too() -> None:
    def form(model: str) -> bytes:
        field = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
        audio = field % (b"file", b'; filename="a.wav"\r\nContent-Type: audio/wav', b"RIFF")
        return audio + field % (b"model", b"", model.encode()) + b"--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with (
        sim_worker(serving("llama")) as llama,
        sim_worker(serving("whisper")) as whisper,
        running(llama.url, whisper.url, enable_igw=True) as app,
    ):
        path = "/v1/audio/transcriptions"
        answer = await call(app, "POST", path, form("whisper"), headers=headers)
        assert answer.headers["x-smg-routed-worker-id"] == whisper.url
        assert (await call(app, "POST", path, form("other"), headers=headers)).status == 404


class Chosen:
    """The policy and the reason of one trace after another."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._records = Records(app)
        self._count = 0

    async def policy(self, model: str) -> str:
        self._count += 1
        name = f"r{self._count}"
        await chat(self._app, model, x_request_id=name)
        return self._records.live[name].routing_policy


async def test_each_model_may_have_a_policy_of_its_own() -> None:
    choices = (ModelPolicy("qwen", PolicyType.RoundRobin),)
    async with (
        sim_worker(serving("llama", adapters=["sql"])) as llama,
        sim_worker(serving("qwen", adapters=["law"])) as qwen,
        sim_worker(serving("phi")) as phi,
        running(llama.url, qwen.url, enable_igw=True, model_policy=choices) as app,
    ):
        await call(app, "POST", "/workers", {"url": phi.url, "labels": {"policy": "power_of_two"}})
        await until(lambda: app.models is not None and "phi" in app.models.names)
        chosen = Chosen(app)
        assert await chosen.policy("llama") == await chosen.policy("sql") == "cache_aware"
        assert await chosen.policy("qwen") == await chosen.policy("law") == "round_robin"
        assert await chosen.policy("phi") == "power_of_two"
        member = app.registry.find(phi.url)
        assert member is not None
        await call(app, "PUT", f"/workers/{member.id}", {"labels": {"policy": "no-such-policy"}})
        assert await chosen.policy("phi") == "cache_aware"


async def models_in_metrics(app: App) -> set[str]:
    page = (await call(app, "GET", "/metrics")).text
    return {
        sample.labels["model"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if "model" in sample.labels
    }


async def test_only_models_that_are_served_have_metrics() -> None:
    async with (
        sim_worker(serving("llama", adapters=["sql"])) as worker,
        running(worker.url, enable_igw=True, model_alias=(ModelAlias("gpt-4", "llama"),)) as app,
    ):
        for model in ("llama", "sql", "gpt-4", *(f"made-up-{n}" for n in range(60))):
            await chat(app, model)
        assert await models_in_metrics(app) <= {"llama", "sql", "unknown", ""}
        page = (await call(app, "GET", "/metrics")).text
        assert (
            'model="unknown",route="/v1/chat/completions",status="rejected"} 60.0'
            in page.replace('error_type="bad_request",', "")
        )


@pytest.mark.redis
async def test_replicas_know_the_same_models(tmp_path: Path) -> None:
    async with (
        Processes(tmp_path) as processes,
        sim_worker(serving("own-name")) as one,
        sim_worker(serving("own-name")) as two,
        replica(redis := await processes.start(RedisProcess())) as a,
        replica(redis) as b,
    ):
        for worker, name in ((one, "small"), (two, "large")):
            new = {"url": worker.url, "model_id": name, "labels": {"policy": "round_robin"}}
            await call(a, "POST", "/workers", new)
        for app in (a, b):
            await until(lambda app=app: len(app.models.names) == 2)  # type: ignore[misc]
            assert await listed(app) == ["large", "small"]
            assert served_by(await chat(app, "small")) == one.url
            assert await Chosen(app).policy("large") == "round_robin"
        await remove(a, two)
        await until(lambda: b.models is not None and b.models.names == ["small"])
        assert (await chat(b, "large")).status == 404


def replica(redis: RedisProcess) -> AbstractAsyncContextManager[App]:
    return running(enable_igw=True, enable_request_tracking=True, redis_url=redis.url)


async def remove(app: App, worker: InProcessWorker) -> None:
    member = app.registry.find(worker.url)
    assert member is not None
    await call(app, "DELETE", f"/workers/{member.id}")
