FROM python:3.13.9-slim-trixie

WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes --requirement requirements.txt

COPY pyproject.toml README.md ./
COPY telemetry telemetry
COPY schemas schemas
COPY topics topics
COPY storage storage
COPY agents agents
COPY edge edge
COPY runtime runtime
COPY docs docs
# uv_build comes with pip's build isolation; our own dependencies are in place already.
RUN pip install --no-cache-dir --no-deps . \
    && useradd --system --no-create-home visitor

USER visitor
ENTRYPOINT ["visitor"]
CMD ["worker"]
