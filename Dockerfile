# Builds the single image for all three roles: `membership serve`, `membership project` and `membership migrate`.
# Health checks differ by role, so they are not in the image: see compose.yaml and deploy/kubernetes.
#
# Tags move. For a release, pin the base image by the digest that your registry shows for it (`docker buildx imagetools
# inspect python:3.13-slim`): make image ARGS='--build-arg PYTHON_IMAGE=python:3.13-slim@sha256:…'
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all:
WORKDIR /build
# With OpenTelemetry: docker build --build-arg LOCK=requirements-otel.lock
ARG LOCK=requirements.lock
# Dependencies first: this layer changes only with the lock.
COPY requirements.lock requirements-otel.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/membership \
    && pip --python /opt/membership install --require-hashes -r "$LOCK" \
    && pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md ./
COPY client client
COPY projections projections
COPY consumers consumers
COPY service service
COPY ops ops
RUN hatchling build --target wheel --directory dist \
    && pip wheel --no-index --no-deps --no-build-isolation --wheel-dir dist ./client \
    && pip --python /opt/membership install --no-index --no-deps dist/*.whl

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="campaign-membership" \
      org.opencontainers.image.licenses="Apache-2.0"
# A numeric user, so that an orchestrator can verify that it is not root.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin membership
COPY --from=build /opt/membership /opt/membership
ENV PATH=/opt/membership/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MEMBERSHIP_HTTP_HOST=0.0.0.0 \
    MEMBERSHIP_PROJECTOR_HTTP_HOST=0.0.0.0 \
    MEMBERSHIP_LOG_FORMAT=json
USER 10001
EXPOSE 8000
ENTRYPOINT ["membership"]
CMD ["serve"]
