"""Only what pyproject.toml cannot say yet in a stable way: the C extension."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "channels._ring",
            sources=[f"channels/csrc/{name}.c" for name in ("module", "ends", "memory", "ring", "arena")],
            depends=[f"channels/csrc/{name}.h" for name in ("ends", "memory", "ring", "arena")],
            extra_compile_args=["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror=implicit-function-declaration"],
        )
    ]
)
