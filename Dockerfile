# One image for edge, cloud, link and client; docker-compose.yml says which of them a container is.
# Plain features only, so that both of Docker's builders take it.

FROM python:3.11-slim-bookworm AS dependencies
# Where torch without CUDA is found, which is a tenth of the size; asked for torch alone. Empty: the default index.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
RUN PIP_EXTRA_INDEX_URL="$TORCH_INDEX" \
    pip install --no-cache-dir --no-deps --constraint constraints.txt torch
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      > requirements.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

# The project has a folder of its own: a change of the source then leaves the big layer of dependencies alone.
FROM dependencies AS project
COPY . .
RUN pip install --no-cache-dir --no-deps --target /opt/branchynet .

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp branchynet \
    && install --directory --owner=branchynet /out
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=project /opt/branchynet /opt/branchynet
# The file system is read-only in docker-compose.yml, but for /tmp.
ENV PATH=/opt/branchynet/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/branchynet \
    PYTHONDONTWRITEBYTECODE=1 \
    MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /tmp
USER 10001
CMD ["branchynet", "--help"]
