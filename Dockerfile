# Edge, cloud, link and client are one image without torch; docker-compose.yml says which of them a container is.
# `docker build --target laboratory` makes one with everything: torch, plots, Ray.
# Plain features only, so that both of Docker's builders take it.

FROM python:3.11-slim-bookworm AS build
WORKDIR /build
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    PIP_CONSTRAINT=/build/constraints.txt
# pip itself is no part of the image: 12 MB, and nothing is installed later.
RUN python -m venv --without-pip /opt/venv
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
    && /usr/local/bin/pip --python /opt/venv/bin/python install --requirement requirements.txt

# The project has a folder of its own: a change of the source then leaves the big layer of dependencies alone.
FROM build AS project
COPY . .
# By the environment's own Python, whose path the command begins with.
RUN /usr/local/bin/pip --python /opt/venv/bin/python install --no-deps --target /opt/branchynet .

FROM build AS build-laboratory
# Where torch without CUDA is found, which is a tenth of the size; asked for torch alone. Empty: the default index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" /usr/local/bin/pip --python /opt/venv/bin/python install --no-deps torch
COPY . .
RUN /usr/local/bin/pip --python /opt/venv/bin/python install '.[all]'

FROM python:3.11-slim-bookworm AS base
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp branchynet \
    && install --directory --owner=branchynet /out
# The file system is read-only in docker-compose.yml, but for /tmp.
ENV PATH=/opt/branchynet/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/branchynet \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /tmp
USER 10001
CMD ["branchynet", "--help"]

FROM base AS laboratory
COPY --from=build-laboratory /opt/venv /opt/venv

FROM base AS node
COPY --from=build /opt/venv /opt/venv
COPY --from=project /opt/branchynet /opt/branchynet
