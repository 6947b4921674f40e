# From these files and the package index alone:
#   docker build -t seekr . && docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" seekr demo --small
FROM python:3.12-slim

# Triton compiles the launcher of its kernels where it runs.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG EXTRAS=metrics
ENV PIP_NO_CACHE_DIR=1

# torch goes first and by its pin alone, as in the Makefile: a layer that a change of seekr leaves as it is.
WORKDIR /src
COPY constraints.txt ./
RUN pip install "$(grep '^torch==' constraints.txt)" -c constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY seekr ./seekr
RUN pip install ".[$EXTRAS]" -c constraints.txt

# Any user may run it: --user has no home of its own here.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["seekr"]
CMD ["--help"]
