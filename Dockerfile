# Both programs, cdc-consumer and backfill, in one image:
#
#   docker build -t narrow-to-wide .
#   docker run narrow-to-wide                      # cdc-consumer run
#   docker run narrow-to-wide backfill status
#
# Settings come as environment variables (docs/settings.md), secrets as files (…_FILE). Nothing is written to the
# root file system, so --read-only works.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
RUN python -m venv /opt/narrow-to-wide
# Every archive is held to its hash: ours is the only code that is not pinned.
COPY requirements.txt requirements-build.txt ./
RUN /opt/narrow-to-wide/bin/pip install --require-hashes -r requirements.txt \
 && /opt/narrow-to-wide/bin/pip install --require-hashes -r requirements-build.txt
COPY pyproject.toml README.md LICENSE ./
COPY channels ./channels
COPY connectors ./connectors
COPY widetable ./widetable
COPY cdc_consumer ./cdc_consumer
COPY backfill ./backfill
COPY devstack ./devstack
RUN /opt/narrow-to-wide/bin/pip install --no-deps --no-build-isolation . \
 && /opt/narrow-to-wide/bin/pip uninstall --yes setuptools pip

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="narrow-to-wide" \
      org.opencontainers.image.description="Narrow PostgreSQL telemetry to wide tables: live through Debezium, history through COPY" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# tini passes signals on, and can tell Docker which exit codes mean "do not start again" (docker-compose.yml).
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin narrow
COPY --from=build /opt/narrow-to-wide /opt/narrow-to-wide
ENV PATH=/opt/narrow-to-wide/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CDC_CONSUMER__HTTP_HOST=0.0.0.0 \
    CDC_LOG__FORMAT=json
USER 10001:10001
WORKDIR /
EXPOSE 9180
STOPSIGNAL SIGTERM
# For `cdc-consumer run`; whoever runs another command switches it off. 503 and no answer are both errors here.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('CDC_CONSUMER__HTTP_PORT', '9180') + '/healthz', timeout=4)"]
ENTRYPOINT ["tini", "--"]
CMD ["cdc-consumer", "run"]
