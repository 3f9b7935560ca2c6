"""Vertex AI's tuning jobs, endpoints and storage, and questions to the Gemini API, by the wire format
that the SDK writes and reads.
"""

import itertools
import json

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from tests.providers.local_server import Faults, Parrot, json_lines

TOKEN = "ya29.emulated-token"
KEY = "AIzaSyEmulated0123456789"
WALK = ("QUEUED", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED")
PLACE = "projects/acme/locations/us-central1"


class GoogleEmulator:
    """One project. walk: the states of a new job, one a look."""

    def __init__(self, walk=WALK):
        self.jobs, self.objects, self.models, self.walk = {}, {}, {}, walk
        self.error = {"code": 3, "message": "The job failed."}
        self.ids, self.faults, self.logins = itertools.count(1), Faults(), 0
        jobs = f"/v1beta1/{PLACE}/tuningJobs"
        routes = [
            Route("/token", self.log_in, methods=["POST"]),
            Route("/upload/storage/v1/b/{bucket}/o", self.put_object, methods=["POST"]),
            Route(jobs, self.post_job, methods=["POST"]),
            Route(jobs, self.list_jobs, methods=["GET"]),
            Route(jobs + "/{id}", self.get_job, methods=["GET"]),
            Route(jobs + "/{id}:cancel", self.cancel, methods=["POST"]),
            Route("/v1beta1/{model:path}:generateContent", self.answer, methods=["POST"]),
            Route("/v1/models/{id}:generateContent", self.answer, methods=["POST"]),
        ]
        self.app = Starlette(
            routes=routes,
            middleware=[
                Middleware(BaseHTTPMiddleware, dispatch=self.faults),
                Middleware(BaseHTTPMiddleware, dispatch=self.check_key),
            ],
        )

    async def check_key(self, request, call_next):
        known = request.headers.get("authorization") == f"Bearer {TOKEN}"
        known = known or request.headers.get("x-goog-api-key") == KEY
        if request.url.path != "/token" and not known:
            return problem(
                401, "Request had invalid authentication credentials.", "UNAUTHENTICATED"
            )
        return await call_next(request)

    async def log_in(self, request):
        self.logins += 1
        return JSONResponse({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})

    async def put_object(self, request):
        name = f"gs://{request.path_params['bucket']}/{request.query_params['name']}"
        self.objects[name] = await request.body()
        return JSONResponse({"name": request.query_params["name"]})

    async def post_job(self, request):
        body = await request.json()
        number = next(self.ids)
        job = {
            **body, "name": f"{PLACE}/tuningJobs/{number}", "state": f"JOB_STATE_{self.walk[0]}",
            "createTime": "2026-11-25T00:00:00Z",
        }  # fmt: skip
        self.jobs[str(number)] = {"job": job, "walk": list(self.walk[1:])}
        return JSONResponse(job)

    async def list_jobs(self, request):
        size = 2  # small pages, so that paging is walked
        start = int(request.query_params.get("pageToken", 0))
        every = [entry["job"] for entry in self.jobs.values()]
        body = {"tuningJobs": every[start : start + size]}
        if start + size < len(every):
            body["nextPageToken"] = str(start + size)
        return JSONResponse(body)

    async def get_job(self, request):
        entry = self.jobs.get(request.path_params["id"])
        if entry is None:
            return problem(404, "Tuning job not found.", "NOT_FOUND")
        if entry["walk"]:
            self.step(entry["job"], entry["walk"].pop(0))
        return JSONResponse(entry["job"])

    def step(self, job, state):
        job["state"] = f"JOB_STATE_{state}"
        if state.endswith("SUCCEEDED"):
            spec = job["supervisedTuningSpec"]
            rows = json_lines(self.objects[spec["trainingDatasetUri"]])
            endpoint = f"{PLACE}/endpoints/{job['name'].rpartition('/')[2]}"
            job["tunedModel"] = {"model": f"{PLACE}/models/1@1", "endpoint": endpoint}
            stats = {"totalBillableTokenCount": str(10 * len(rows))}
            job["tuningDataStats"] = {"supervisedTuningDataStats": stats}
            self.models[endpoint] = Parrot([pair_of(row["contents"]) for row in rows])
        elif state == "FAILED":
            job["error"] = self.error

    async def cancel(self, request):
        entry = self.jobs[request.path_params["id"]]
        entry["job"]["state"], entry["walk"] = "JOB_STATE_CANCELLED", []
        return JSONResponse({})

    async def answer(self, request):
        body = await request.json()
        name = request.url.path.partition("/v1beta1/")[2] or request.url.path.partition("/v1/")[2]
        model = self.models.get(name.removesuffix(":generateContent"))
        asked = body["contents"][-1]["parts"][0]["text"]
        text = model.reply(asked) if model else "I cannot tell"
        part = {"role": "model", "parts": [{"text": text}]}
        self.last = body.get("generationConfig", {})
        thought = self.last.get("thinkingConfig", {}).get("thinking_budget", 0)
        usage = {"promptTokenCount": 20, "candidatesTokenCount": 2, "thoughtsTokenCount": thought,
                 "totalTokenCount": 22 + thought}  # fmt: skip
        return JSONResponse({"candidates": [{"content": part, "finishReason": "STOP"}],
                             "usageMetadata": usage})  # fmt: skip


def pair_of(contents):
    return contents[-2]["parts"][0]["text"], contents[-1]["parts"][0]["text"]


def problem(code, message, status, details=()):
    body = {"error": {"code": code, "message": message, "status": status, "details": list(details)}}
    return JSONResponse(body, code)


def credentials_file(folder, url):
    """A service account whose tokens the emulator gives; the key is made for this test."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "account.json"
    path.write_text(
        json.dumps(
            {"type": "service_account", "project_id": "acme", "private_key_id": "1",
             "private_key": key.decode(), "client_email": "t@acme.iam.gserviceaccount.com",
             "client_id": "1", "token_uri": f"{url}/token"}
        )
    )  # fmt: skip
    return path
