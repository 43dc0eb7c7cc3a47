# Two images of one repository, both as a user without rights.
#   docker build --target train -t date_jax .            # trains: the whole lock file
#   docker build --target serve -t date_jax-serve .      # answers: without TensorFlow and the tools of training
# TPUs and GPUs: --build-arg ACCELERATOR=tpu, or cuda13.

FROM python:3.11-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN useradd --create-home --uid 10001 seeker
# Modules are found in the folder that a container starts in.
WORKDIR /app

# Fonts for titles in every script, drawn into sheets and answers.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends fonts-noto-cjk fonts-noto-core \
    && rm -rf /var/lib/apt/lists/*

FROM base AS serve
COPY requirements-serve.lock LICENSE ./
RUN pip install --require-hashes --requirement requirements-serve.lock
COPY configs configs
COPY date_jax date_jax
USER seeker
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
# A token is needed, for the port is open: docker run -e DATE_JAX_TOKEN=... -v $PWD/runs/one:/run:ro -p 127.0.0.1:8000:8000
ENTRYPOINT ["python", "-m", "date_jax.serve", "--host=0.0.0.0"]
CMD ["--workdir=/run"]

FROM base AS train
ARG ACCELERATOR=""
COPY requirements.lock LICENSE ./
RUN pip install --require-hashes --requirement requirements.lock
# The plugin of an accelerator, at the version of JAX that the lock file has.
RUN if [ -n "$ACCELERATOR" ]; then \
        pip install "jax[$ACCELERATOR]==$(python -c 'import importlib.metadata as m; print(m.version("jax"))')"; \
    fi
COPY configs configs
COPY date_jax date_jax
USER seeker
ENV DATE_JAX_CACHE=/tmp/date_jax
ENTRYPOINT ["python", "-m", "date_jax.main"]
CMD ["--config=pgda", "--workdir=/tmp/run"]
