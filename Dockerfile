# CPU:  docker build -t image-vectors .
# CUDA: docker build -t image-vectors:cuda --build-arg TENSORFLOW='tensorflow[and-cuda]' .
#       docker run --gpus all ... (the host needs NVIDIA's driver and container toolkit)
# docker run --rm -v "$PWD:/data" -v image-vectors-cache:/home/user image-vectors extract photos --out vectors.npz
FROM python:3.13-slim

ARG TENSORFLOW=tensorflow
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir . "$TENSORFLOW" && rm -rf /src/*

RUN useradd --create-home --uid 1000 user
USER 1000
WORKDIR /data
ENTRYPOINT ["image-vectors"]
CMD ["--help"]
