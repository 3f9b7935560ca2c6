# syntax=docker/dockerfile:1
# Tunewright as an image: the command, with runs, models and caches in the volume /data.
#
#   docker build -t tunewright .
#   docker run --rm -v tuned:/data tunewright quickstart
#   docker run --rm -v tuned:/data tunewright keys create me --scope admin
#   docker run -d -p 8000:8000 -v tuned:/data tunewright
#
# --build-arg TORCH_INDEX=URL takes torch from an index of its own (pytorch.org names one for the
# build without CUDA, which is gigabytes smaller). Without it pip chooses.

FROM python:3.11.14-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-bookworm
ARG TORCH_INDEX=
# gcc: the fast paths of training are compiled at their first use.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /source/constraints.txt /tmp/constraints.txt
RUN torch="$(grep '^torch==' /tmp/constraints.txt)" \
    && pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
COPY --from=build /wheels /tmp/wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt /tmp/wheels/*.whl \
    && rm -rf /tmp/wheels /tmp/constraints.txt \
    && useradd --uid 10001 --create-home --shell /usr/sbin/nologin tunewright \
    && install -d -o tunewright -g tunewright -m 0700 /data
ENV HF_HOME=/data/hub \
    TUNEWRIGHT_CACHE=/data/cache \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["tunewright"]
# Beyond loopback a key is asked for: make one first, into the same volume.
CMD ["serve", "--host", "0.0.0.0"]
