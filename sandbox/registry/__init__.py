"""The container registry: builds, images and the container engine."""
