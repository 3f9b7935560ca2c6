"""OpenAI's files, fine-tuning and chat endpoints, by the field lists of its public specification.

A job goes one status further each time it is looked at. Its "model" answers as the most similar
training row was answered, so that what was uploaded decides what comes back.
"""

import itertools
import json
import time

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tests.providers.local_server import Faults, Parrot, json_lines

KEY = "sk-test-0123456789abcdef"
WALK = ("validating_files", "queued", "running", "running", "succeeded")


class OpenAIEmulator:
    """The account behind one key. walk: the statuses of a new job, one a look."""

    def __init__(self, walk=WALK):
        self.files, self.jobs, self.content, self.events = {}, {}, {}, {}
        self.models, self.walk, self.error = {}, walk, None
        self.faults, self.num_asked = Faults(), 0
        self.ids = itertools.count(1)
        routes = [
            Route("/v1/files", self.post_file, methods=["POST"]),
            Route("/v1/files", self.list_files, methods=["GET"]),
            Route("/v1/files/{id}", self.get_file, methods=["GET"]),
            Route("/v1/files/{id}/content", self.get_content, methods=["GET"]),
            Route("/v1/fine_tuning/jobs", self.post_job, methods=["POST"]),
            Route("/v1/fine_tuning/jobs", self.list_jobs, methods=["GET"]),
            Route("/v1/fine_tuning/jobs/{id}", self.get_job, methods=["GET"]),
            Route("/v1/fine_tuning/jobs/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/v1/fine_tuning/jobs/{id}/events", self.get_events, methods=["GET"]),
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
        ]
        self.app = Starlette(
            routes=routes,
            middleware=[
                Middleware(BaseHTTPMiddleware, dispatch=self.faults),
                Middleware(BaseHTTPMiddleware, dispatch=self.check_key),
            ],
        )

    async def check_key(self, request, call_next):
        if request.headers.get("authorization") != f"Bearer {KEY}":
            said = request.headers.get("authorization", "").removeprefix("Bearer ")
            return problem(401, f"Incorrect API key provided: {said}.", code="invalid_api_key")
        return await call_next(request)

    async def post_file(self, request):
        form = await request.form()
        data = await form["file"].read()
        return JSONResponse(self.add_file(form["file"].filename, data, form["purpose"]))

    def add_file(self, name, data, purpose="fine-tune"):
        made = {"id": f"file-{next(self.ids):06d}", "object": "file", "bytes": len(data),
                "created_at": int(time.time()), "filename": name, "purpose": purpose,
                "status": "processed"}  # fmt: skip
        self.files[made["id"]], self.content[made["id"]] = made, data
        return made

    async def list_files(self, request):
        purpose = request.query_params.get("purpose")
        return page([f for f in self.files.values() if purpose in (None, f["purpose"])], request)

    async def get_file(self, request):
        found = self.files.get(request.path_params["id"])
        return JSONResponse(found) if found else problem(404, "No such File object")

    async def get_content(self, request):
        found = self.content.get(request.path_params["id"])
        return problem(404, "No such File object") if found is None else Response(found)

    async def post_job(self, request):
        return JSONResponse(self.add_job(await request.json()))

    def add_job(self, body):
        number = next(self.ids)
        method = body.get("method") or {"type": "supervised", "supervised": {}}
        numbers = method[method["type"]].get("hyperparameters", {})
        job = {
            "id": f"ftjob-{number:06d}", "object": "fine_tuning.job",
            "created_at": int(time.time()), "finished_at": None, "model": body["model"],
            "fine_tuned_model": None, "organization_id": "org-1", "status": self.walk[0],
            "training_file": body["training_file"], "validation_file": body.get("validation_file"),
            "result_files": [], "trained_tokens": None, "error": None,
            "hyperparameters": {"n_epochs": "auto", **numbers}, "seed": body.get("seed") or 42,
            "method": method, "metadata": body.get("metadata"),
            "suffix": body.get("suffix"), "_walk": list(self.walk[1:]),
        }  # fmt: skip
        self.jobs[job["id"]] = job
        self.events[job["id"]] = []
        self.tell(job, f"Created fine-tuning job: {job['id']}")
        return shown(job)

    def tell(self, job, message, level="info", data=None):
        kind = "metrics" if data else "message"
        event = {"id": f"ftevent-{next(self.ids):06d}", "object": "fine_tuning.job.event",
                 "created_at": int(time.time()), "level": level, "message": message,
                 "type": kind, "data": data}  # fmt: skip
        self.events[job["id"]].insert(0, event)

    async def list_jobs(self, request):
        return page([shown(job) for job in reversed(self.jobs.values())], request)

    async def get_job(self, request):
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            return problem(404, "Could not find fine tune")
        if job["_walk"]:
            self.step(job, job["_walk"].pop(0))
        return JSONResponse(shown(job))

    def step(self, job, status):
        job["status"] = status
        if status == "running":
            step = 1 + sum(bool(e["data"]) for e in self.events[job["id"]])
            data = {"step": step, "train_loss": 2.0 / step, "valid_loss": 2.2 / step}
            self.tell(job, f"Step {step}/2: training loss={2.0 / step:.2f}", data=data)
        elif status == "succeeded":
            name = f"ft:{job['model']}:org:{job['suffix'] or ''}:{job['id'][-6:]}"
            job["fine_tuned_model"], job["finished_at"] = name, int(time.time())
            rows = json_lines(self.content[job["training_file"]])
            epochs = job["hyperparameters"]["n_epochs"]
            job["trained_tokens"] = (epochs if isinstance(epochs, int) else 3) * 10 * len(rows)
            self.models[name] = Parrot([pair_of(row) for row in rows])
            self.tell(job, f"New fine-tuned model created: {name}")
        elif status == "failed":
            job["error"] = self.error
            self.tell(job, self.error["message"], level="error")

    async def cancel(self, request):
        job = self.jobs[request.path_params["id"]]
        job["status"], job["_walk"] = "cancelled", []
        return JSONResponse(shown(job))

    async def get_events(self, request):
        return page(self.events[request.path_params["id"]], request)

    async def list_models(self, request):
        names = ["gpt-4.1-nano-2025-04-14", *self.models]
        made = [{"id": n, "object": "model", "created": 1, "owned_by": "org"} for n in names]
        return page(made, request)

    async def chat(self, request):
        body = await request.json()
        self.num_asked += 1
        refusal = thinking_refusal(body)
        if refusal:
            return problem(400, refusal, code="unsupported_value")
        turns = body["messages"]
        question = [turn["content"] for turn in turns if turn["role"] == "user"][-1]
        model = self.models.get(body["model"])
        if model is None and body["model"].startswith("ft:"):
            return problem(
                404, f"The model `{body['model']}` does not exist", code="model_not_found"
            )
        shots = sum(turn["role"] == "assistant" for turn in turns)
        text = model.reply(question) if model else f"I know {shots} examples"
        read = 10 * len(turns)
        cached = read - read % 128 if shots and read >= 1024 else 0
        usage = {"prompt_tokens": read, "completion_tokens": 2, "total_tokens": read + 2,
                 "prompt_tokens_details": {"cached_tokens": cached}}  # fmt: skip
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None,
                  "message": {"role": "assistant", "content": text, "refusal": None}}  # fmt: skip
        return JSONResponse(
            {"id": f"chatcmpl-{next(self.ids)}", "object": "chat.completion",
             "created": int(time.time()), "model": body["model"], "choices": [choice],
             "usage": usage}
        )  # fmt: skip


def thinking_refusal(body):
    """What a model that thinks says of parameters that it does not take, in OpenAI's words."""
    if not body["model"].startswith("gpt-5"):
        return None
    if "max_tokens" in body:
        return ("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.")  # fmt: skip
    if body.get("temperature", 1) != 1:
        return ("Unsupported value: 'temperature' does not support 0 with this model. Only the "
                "default (1) value is supported.")  # fmt: skip
    if body.get("reasoning_effort") == "none" and body["model"] == "gpt-5-mini":
        return ("Unsupported value: 'reasoning_effort' does not support 'none' with this model. "
                "Supported values are: 'minimal', 'low', 'medium', and 'high'.")  # fmt: skip
    return None


def pair_of(row):
    """(question, answer) of a training line, supervised or preference."""
    if "messages" in row:
        turns = row["messages"]
        return [t["content"] for t in turns if t["role"] == "user"][-1], turns[-1]["content"]
    turns = row["input"]["messages"]
    return turns[-1]["content"], row["preferred_output"][0]["content"]


def shown(job):
    return {key: value for key, value in job.items() if not key.startswith("_")}


def page(rows, request):
    """A cursor page: `after` and `limit`."""
    after, limit = request.query_params.get("after"), int(request.query_params.get("limit", 20))
    start = next((i + 1 for i, row in enumerate(rows) if row["id"] == after), 0)
    part = rows[start : start + limit]
    more = start + limit < len(rows)
    ends = {"first_id": part[0]["id"], "last_id": part[-1]["id"]} if part else {}
    return JSONResponse({"object": "list", "data": part, "has_more": more, **ends})


def problem(status, message, *, kind="invalid_request_error", code=None):
    return JSONResponse(error_body(message, kind=kind, code=code), status)


def error_body(message, *, kind="invalid_request_error", code=None):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def dumps(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
