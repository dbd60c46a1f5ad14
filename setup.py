"""Only what pyproject.toml cannot say yet in a stable way: the C extension."""

from setuptools import Extension, setup

HEADERS = ("ends", "memory", "ring", "arena", "process")

setup(
    ext_modules=[
        Extension(
            "channels._ring",
            sources=[f"channels/csrc/{name}.c" for name in ("module", "writer", "reader", *HEADERS)],
            depends=[f"channels/csrc/{name}.h" for name in HEADERS],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
        )
    ]
)
