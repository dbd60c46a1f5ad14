"""Only what pyproject.toml cannot say yet in a stable way: the C extension."""

from setuptools import Extension, setup

COLLECTIVE = ("collective", "collective_kernels", "collective_member")
HEADERS = ("ends", "memory", "ring", "arena", "process", "reason", "waiting", *COLLECTIVE)
SOURCES = ("module", "writer", "reader", "collective_module", "collective_moves", "collective_rounds", *HEADERS)

setup(
    ext_modules=[
        Extension(
            "channels._ring",
            sources=[f"channels/csrc/{name}.c" for name in SOURCES],
            depends=[f"channels/csrc/{name}.h" for name in (*HEADERS, "collective_loops")],
            # -O3: the reductions are plain loops for the compiler to vectorise, which GCC does well only from there on.
            extra_compile_args=["-std=c11", "-O3", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
        )
    ]
)
