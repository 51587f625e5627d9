# syntax=docker/dockerfile:1
# Image of the command line and the service; docs/install.md has the commands.
#
# TORCH   cpu; cuda, for NVIDIA GPUs; or none, for runs whose models are behind an endpoint
# EXTRAS  extras of the package
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=cpu
ARG EXTRAS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY constraints.txt /opt/mllm-msr/
# torch comes first and alone: the index for CPUs has no other packages of the constraints.
# hadolint ignore=DL3013
RUN torch="$(grep '^torch==' /opt/mllm-msr/constraints.txt)" \
    && case "$TORCH" in \
        cpu) pip install --index-url https://download.pytorch.org/whl/cpu "$torch" ;; \
        cuda) pip install "$torch" ;; \
        none) ;; \
        *) echo "TORCH must be cpu, cuda or none, but is '$TORCH'." >&2 && exit 2 ;; \
    esac
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    if [ "$TORCH" = none ]; then default=report,serve,postgres; \
    else default=train,serve,postgres; fi \
    && pip install --constraint /opt/mllm-msr/constraints.txt \
        "$(echo /wheels/*.whl)[${EXTRAS:-$default}]"

# Run folders can only be read by their owner, so containers are started as that user, whoever it is.
RUN useradd --uid 1000 mllm-msr \
    && install --directory --owner 1000 --group 1000 --mode 1777 /home/mllm-msr /models /runs
ENV HOME=/home/mllm-msr USER=mllm-msr HF_HOME=/models
USER 1000:1000
WORKDIR /runs
EXPOSE 8000
ENTRYPOINT ["mllm-msr"]
CMD ["--help"]
