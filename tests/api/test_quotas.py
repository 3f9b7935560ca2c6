"""What one key may use: requests, tokens, streams, jobs, bytes."""

import openai
import pytest
from tests.api.conftest import Live
from tests.jobs.tuning_place import Place, chat_rows, jsonl

from tunewright.access import Caller, create_key
from tunewright.api import limits as module
from tunewright.api.app import make_app
from tunewright.api.errors import ApiError
from tunewright.api.limits import Limits
from tunewright.errors import UserError
from tunewright.hosting import Hosting, find_served
from tunewright.jobs import board
from tunewright.jobs.home import Home
from tunewright.settings import Quota

ANYBODY = Caller("key-1", frozenset({"infer"}))


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_requests_of_a_minute(clock):
    limits = Limits(Quota(requests_per_minute=3))
    for left in (2, 1, 0):
        told = dict(limits.enter(ANYBODY))
        assert told[b"x-ratelimit-remaining-requests"] == str(left).encode()
        clock[0] += 10
    with pytest.raises(ApiError, match="3 of 3 in the last minute; come back in 31 s") as refused:
        limits.enter(ANYBODY)
    assert refused.value.status == 429 and refused.value.headers == {"Retry-After": "31"}
    limits.enter(Caller("key-2", frozenset({"infer"})))  # another key has its own
    clock[0] += 31
    limits.enter(ANYBODY)
    with pytest.raises(ApiError):
        limits.enter(ANYBODY)


def test_tokens_of_a_minute(clock):
    limits = Limits(Quota(tokens_per_minute=100))
    limits.spend(ANYBODY, 99)
    limits.enter(ANYBODY)
    clock[0] += 20
    limits.spend(ANYBODY, 50)
    with pytest.raises(ApiError, match="tokens_per_minute: 149 of 100") as refused:
        limits.enter(ANYBODY)
    assert refused.value.headers == {"Retry-After": "41"}  # then 50 are left in the minute
    clock[0] += 40
    limits.enter(ANYBODY)


def test_whose_quota_holds():
    limits = Limits(Quota(requests_per_minute=3, open_jobs=5))
    own = Caller("k", frozenset({"infer"}), quota=Quota(requests_per_minute=9))
    assert limits.quota_of(own) == Quota(requests_per_minute=9, open_jobs=5)
    assert limits.quota_of(Caller("k", frozenset({"admin"}))) == Quota()
    assert limits.quota_of(Caller("", frozenset({"infer"}))) == Quota()


def test_streams_at_a_time():
    limits = Limits(Quota(streams=1))
    limits.check_streams(ANYBODY)
    with limits.streaming(ANYBODY), pytest.raises(ApiError, match="streams: 1 at a time"):
        limits.check_streams(ANYBODY)
    limits.check_streams(ANYBODY)


@pytest.fixture(scope="module")
def shop(tuned, tmp_path_factory):
    """A server with keys that have limits of their own."""
    folder = tmp_path_factory.mktemp("quotas")
    place = Place(folder / "server", folder / "base")
    settings = place.settings.model_copy(update={"quota": Quota(jobs_per_day=3, streams=0)})
    place.home = Home(place.database, place.folder, settings)
    hosting = Hosting(find_served([tuned["one"]]))
    live = Live(make_app(hosting, database=place.database, home=place.home))

    def client(name, **quota):
        key, _ = create_key(
            place.database, name, ["read", "infer", "tune"], quota=quota, owner=name
        )
        live.server.config.app.app.keys.refresh()
        return openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0)

    create_key(place.database, "boss", ["admin"])
    yield place, client
    live.stop()


def test_open_jobs_and_jobs_of_a_day(shop):
    place, client = shop
    mine, other = client("mine", open_jobs=1), client("other")
    for asking in (mine, other):
        file = asking.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune").id
        made = [asking.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id]
        if asking is mine:
            with pytest.raises(openai.RateLimitError, match="quota open_jobs") as refused:
                asking.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file)
            assert refused.value.response.headers["x-should-retry"] == "false"
            assert refused.value.code == "insufficient_quota"
            asking.fine_tuning.jobs.cancel(made[0])
        for _ in range(2):
            made.append(asking.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id)
            asking.fine_tuning.jobs.cancel(made[-1])
        with pytest.raises(openai.RateLimitError, match=r"jobs_per_day: 3 jobs .* may have 3"):
            asking.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file)
        assert len(asking.fine_tuning.jobs.list().data) == 3
    assert board.get_job(place.database, made[0])["key_id"].startswith("key-")


def test_bytes_are_counted_and_freed(shop):
    place, client = shop
    keeping = client("keeping", stored_gb=3e-6)
    first = keeping.files.create(file=("a.bin", b"x" * 2000), purpose="user_data")
    before = len(list(place.folder.files.iterdir()))
    with pytest.raises(openai.RateLimitError, match="stored_gb"):
        keeping.files.create(file=("b.bin", b"x" * 1001), purpose="user_data")
    assert len(list(place.folder.files.iterdir())) == before
    assert list(place.folder.incoming.iterdir()) == []
    begin = {"filename": "c", "mime_type": "text/plain", "purpose": "user_data"}
    with pytest.raises(openai.RateLimitError, match="stored_gb"):
        keeping.uploads.create(bytes=1001, **begin)
    keeping.files.delete(first.id)
    assert keeping.files.create(file=("b.bin", b"x" * 1001), purpose="user_data").bytes == 1001


def test_tokens_requests_and_streams_over_http(shop):
    _, client = shop
    asking = client("asking", tokens_per_minute=5, streams=0)
    ask = {"model": "one", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    first = asking.chat.completions.with_raw_response.create(**ask)
    assert first.headers["x-ratelimit-remaining-tokens"] == "5"
    with pytest.raises(openai.RateLimitError, match="tokens_per_minute") as refused:
        asking.chat.completions.create(**ask)
    assert 1 <= int(refused.value.response.headers["retry-after"]) <= 61
    few = client("few", requests_per_minute=2)
    few.models.list(), few.models.list()
    with pytest.raises(openai.RateLimitError, match="requests_per_minute"):
        few.models.list()
    streaming = client("streaming", jobs_per_day=9)
    file = streaming.files.create(file=("r.jsonl", jsonl(chat_rows())), purpose="fine-tune").id
    job = streaming.fine_tuning.jobs.create(model="gpt-4o-mini", training_file=file).id
    with pytest.raises(openai.RateLimitError, match="streams"):
        streaming.get(f"/fine_tuning/jobs/{job}/events?stream=true", cast_to=object)


@pytest.mark.parametrize("quota", [{"open_job": 1}, {"open_jobs": "many"}, {"stored_gb": -1}])
def test_limits_that_are_none_are_told(shop, quota):
    with pytest.raises(UserError, match="--quota"):
        create_key(shop[0].database, "x", ["read"], quota=quota)
